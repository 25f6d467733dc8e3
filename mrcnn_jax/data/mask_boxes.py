"""Boxes of masks, and how far two boxes agree, while annotations are read."""

import numpy as np

from mrcnn_jax.data.annotations import Segmentation
from mrcnn_jax.data.bitmaps import decode_mask
from mrcnn_jax.data.images import ImageHW

BBox = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

FITS = 0.5
"""IoU from which a mask and the box of the file are taken to be of one object."""


def mask_bbox(segmentation: Segmentation, image_hw: ImageHW) -> BBox:
    """Returns the box of a valid, non-empty mask inside its image."""
    height, width = image_hw
    if isinstance(segmentation, dict):
        mask = decode_mask(segmentation, image_hw)
        (columns,), (rows,) = np.nonzero(mask.any(axis=0)), np.nonzero(mask.any(axis=1))
        x0, y0, x1, y1 = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
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
