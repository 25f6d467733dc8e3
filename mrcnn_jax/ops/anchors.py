"""Anchors of the feature pyramid: constants of the canvas, made with NumPy (Faster R-CNN, section 3.1.1; FPN, 4.1)."""

import numpy as np


def make_cell_anchors(size: float, ratios: tuple[float, ...]) -> np.ndarray:
    """Returns [R, 4] float32 anchors around the origin: area size**2, ratio = height / width."""
    anchors = []
    for ratio in ratios:
        width = np.sqrt(size * size / ratio)
        height = ratio * width
        anchors.append([-width / 2, -height / 2, width / 2, height / 2])
    return np.asarray(anchors, np.float32)


def make_level_anchors(feature_hw: tuple[int, int], stride: int, size: float, ratios: tuple[float, ...]) -> np.ndarray:
    """Returns [h * w * R, 4] float32 anchors of one level, in the order row, column, ratio.

    The anchors of cell (0, 0) are centred on the picture's corner (0, 0), as in torchvision and Detectron2.
    """
    feature_h, feature_w = feature_hw
    y, x = np.meshgrid(np.arange(feature_h) * stride, np.arange(feature_w) * stride, indexing="ij")
    shifts = np.stack([x, y, x, y], axis=-1).astype(np.float32)  # [h, w, 4]
    anchors = shifts[:, :, None, :] + make_cell_anchors(size, ratios)  # [h, w, R, 4]
    return anchors.reshape(-1, 4)
