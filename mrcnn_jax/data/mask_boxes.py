"""Boxes of masks, and how far two boxes agree, while annotations are read."""

import numpy as np

from mrcnn_jax.data.annotations import Segmentation, decode_counts
from mrcnn_jax.data.images import ImageHW

BBox = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

FITS = 0.5
"""IoU from which a mask and the box of the file are taken to be of one object."""


def mask_bbox(segmentation: Segmentation, image_hw: ImageHW) -> BBox:
    """Returns the box of a valid, non-empty mask inside its image."""
    height, width = image_hw
    if isinstance(segmentation, dict):
        counts = decode_counts(segmentation["counts"])
        assert counts is not None
        ends = np.cumsum(counts)
        starts, lasts = ends[:-1:2], ends[1::2] - 1  # of the runs of ones
        starts, lasts = starts[starts <= lasts], lasts[starts <= lasts]
        is_single_column = (starts // height == lasts // height).all()
        x0, x1 = starts[0] // height, lasts[-1] // height + 1
        y0, y1 = ((starts % height).min(), (lasts % height).max() + 1) if is_single_column else (0, height)
        return float(x0), float(y0), float(x1 - x0), float(y1 - y0)
    else:
        points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation])
        x0, y0 = np.clip(points.min(axis=0), 0, (width, height)).tolist()
        x1, y1 = np.clip(points.max(axis=0), 0, (width, height)).tolist()
    return x0, y0, x1 - x0, y1 - y0


def bbox_iou(first: BBox, second: BBox) -> float:
    """Returns the IoU of two boxes x, y, width, height."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = first[2] * first[3] + second[2] * second[3] - shared
    return shared / union if union > 0 else 0.0
