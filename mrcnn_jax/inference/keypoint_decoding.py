"""Decoding of keypoints from heat maps (NumPy float32), as in Detectron2 and torchvision.

The heat map of a RoI is resized bicubically to its box in whole pixels, and the keypoint is at the largest value.
OpenCV's bicubic kernel is PyTorch's: its slope at distance 1 is -0.75, and borders are repeated.

Shapes: n detections, K keypoints, h heat-map side, H x W a box in whole pixels.
"""

from typing import Literal

import cv2
import numpy as np


def decode_keypoints(heat_maps: np.ndarray, boxes: np.ndarray, score: Literal["softmax", "logit"]) -> np.ndarray:
    """Returns keypoints [n, K, 3] float32: x and y in pixels of the boxes, and a score.

    Args:
        heat_maps: [n, K, h, h] logits, each of which covers its box.
        boxes: [n, 4] x0, y0, x1, y1 in pixels of the network input.
        score: "softmax" for the share of the keypoint's cell in the heat map, "logit" for the interpolated value.
    """
    count, num_keypoints = heat_maps.shape[:2]
    keypoints = np.zeros((count, num_keypoints, 3), np.float32)
    if not num_keypoints:
        return keypoints
    for index, (maps, box) in enumerate(zip(heat_maps, np.asarray(boxes, np.float32), strict=True)):
        sides = np.maximum(box[2:] - box[:2], np.float32(1.0))  # width, height
        width, height = np.ceil(sides).astype(int).tolist()
        # One by one: OpenCV takes at most 128 channels.
        resized = [cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in maps]
        flat = np.stack(resized).reshape(num_keypoints, -1)  # [K, H * W]
        best = flat.argmax(axis=1)
        cells = np.stack([best % width, best // width], axis=-1).astype(np.float32)  # x, y
        keypoints[index, :, :2] = (cells + np.float32(0.5)) * (sides / np.array([width, height], np.float32)) + box[:2]
        top = flat[np.arange(num_keypoints), best]
        if score == "softmax":
            top = 1 / np.exp(maps.reshape(num_keypoints, -1) - top[:, None]).sum(axis=1)
        keypoints[index, :, 2] = top
    return keypoints
