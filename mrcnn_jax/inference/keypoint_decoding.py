"""Heat maps of keypoints become points (NumPy float32), as in Detectron2 and torchvision.

The heat map of a RoI is resized to its box in whole pixels, bicubically, and the largest value is the keypoint.
Shapes: n detections, K keypoints, h heat-map side, H x W a box in whole pixels.
"""

from typing import Literal

import numpy as np

CUBIC_A = np.float32(-0.75)
"""Slope of the cubic kernel at distance 1; PyTorch's, other libraries use -0.5."""


def cubic_matrix(length: int, size: int) -> np.ndarray:
    """Weights [length, size] float32 that resize `size` cells bicubically to `length`, borders repeated."""
    positions = (np.arange(length, dtype=np.float32) + np.float32(0.5)) * np.float32(size / length) - np.float32(0.5)
    first = np.floor(positions).astype(np.int64) - 1
    weights = np.zeros((length, size), np.float32)
    for tap in range(4):
        cell = first + tap
        near = np.abs(positions - cell)
        inner = ((CUBIC_A + 2) * near - (CUBIC_A + 3)) * near * near + 1
        outer = ((near - 5) * near + 8) * near * CUBIC_A - 4 * CUBIC_A
        np.add.at(weights, (np.arange(length), np.clip(cell, 0, size - 1)), np.where(near <= 1, inner, outer))
    return weights


def decode_keypoints(heat_maps: np.ndarray, boxes: np.ndarray, score: Literal["softmax", "logit"]) -> np.ndarray:
    """Keypoints [n, K, 3] float32: x, y in pixels of the boxes, score.

    Args:
        heat_maps: [n, K, h, h] logits, each spread over its box.
        boxes: [n, 4] x0, y0, x1, y1 in pixels of the network input.
        score: "softmax", the share of the keypoint's cell in the heat map; "logit", the interpolated value itself.
    """
    count, num_keypoints, size = heat_maps.shape[:3]
    keypoints = np.zeros((count, num_keypoints, 3), np.float32)
    if not num_keypoints:
        return keypoints
    for index, (maps, box) in enumerate(zip(heat_maps, np.asarray(boxes, np.float32), strict=True)):
        sides = np.maximum(box[2:] - box[:2], np.float32(1.0))  # width, height
        width, height = np.ceil(sides).astype(int).tolist()
        resized = cubic_matrix(height, size) @ maps @ cubic_matrix(width, size).T  # [K, H, W]
        flat = resized.reshape(num_keypoints, -1)
        best = flat.argmax(axis=1)
        cells = np.stack([best % width, best // width], axis=-1).astype(np.float32)  # x, y
        keypoints[index, :, :2] = (cells + np.float32(0.5)) * (sides / np.array([width, height], np.float32)) + box[:2]
        top = flat[np.arange(num_keypoints), best]
        if score == "softmax":
            top = 1 / np.exp(maps.reshape(num_keypoints, -1) - top[:, None]).sum(axis=1)
        keypoints[index, :, 2] = top
    return keypoints
