"""Box-relative M x M bitmaps of validated segmentations, the form in which ground-truth masks are sent to the device.

Column i of a bitmap covers x0 + (i .. i + 1) * (x1 - x0) / M of the image, and rows likewise. A bitmap therefore does
not change when the image is resized, and is mirrored when the image is. Pixel j of an image covers j .. j + 1.
"""

from typing import Any

import numpy as np

from mrcnn_jax.data.annotations import Segmentation, decode_counts
from mrcnn_jax.data.images import ImageHW

_MAX_REACH = 3  # bitmap sides; polygons that extend further from their box's centre are rasterised at image size


def _read_counts(code: dict[str, Any]) -> np.ndarray:
    """Returns the run lengths int64 [R] of a validated RLE."""
    counts = decode_counts(code["counts"])
    assert counts is not None
    return counts


def _rasterise(polygons: list[np.ndarray], image_hw: ImageHW) -> np.ndarray:
    """Returns the run lengths int64 [R] of the union of polygons [K, 2] (x, y) on an image of this size."""
    from pycocotools import mask as coco_mask

    codes = coco_mask.frPyObjects([polygon.ravel().tolist() for polygon in polygons], *image_hw)
    return _read_counts({"counts": coco_mask.merge(codes)["counts"].decode()})


def decode_columns(counts: np.ndarray, height: int, first: int, last: int) -> np.ndarray:
    """Returns columns [first, last) of an RLE's mask, uint8 [height, last - first], from its run lengths int64 [R]."""
    ends = np.clip(np.cumsum(counts), first * height, last * height)
    lengths = np.diff(ends, prepend=first * height)
    values = (np.arange(len(counts)) % 2).astype(np.uint8)
    return np.repeat(values, lengths).reshape(last - first, height).T


def _resample(mask: np.ndarray, box: np.ndarray, mask_size: int) -> np.ndarray:
    """Returns the bitmap uint8 [M, M] of a mask uint8 [h, w] inside a box in its pixels: bilinear, threshold 0.5."""
    import cv2

    x0, y0, x1, y1 = box
    step_x, step_y = (x1 - x0) / mask_size, (y1 - y0) / mask_size
    inverse = np.array([[step_x, 0, x0 + step_x / 2 - 0.5], [0, step_y, y0 + step_y / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    scaled = cv2.warpAffine(mask * 255, inverse, (mask_size, mask_size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return (scaled >= 128).astype(np.uint8)


def _crop(counts: np.ndarray, image_hw: ImageHW, box: np.ndarray, mask_size: int) -> np.ndarray:
    height, width = image_hw
    x0, y0, x1, y1 = box
    # The interpolation needs one more pixel on each side.
    left, right = max(int(x0) - 1, 0), min(int(np.ceil(x1)) + 1, width)
    top, bottom = max(int(y0) - 1, 0), min(int(np.ceil(y1)) + 1, height)
    crop = decode_columns(counts, height, left, right)[top:bottom]
    return _resample(np.ascontiguousarray(crop), box - (left, top, left, top), mask_size)


def make_bitmap(segmentation: Segmentation, box: np.ndarray, image_hw: ImageHW, mask_size: int) -> np.ndarray:
    """Returns the bitmap [M, M], uint8 0 or 1, of a validated segmentation relative to `box`.

    `box` is x0, y0, x1, y1 inside the image. Polygons are rasterised in the bitmap's own frame, so that
    small objects keep their sub-pixel outline.
    """
    box = np.asarray(box, np.float64)
    if isinstance(segmentation, dict):
        return _crop(_read_counts(segmentation), image_hw, box, mask_size)
    polygons = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]
    scale = mask_size / (box[2:] - box[:2])
    framed = [(polygon - box[:2]) * scale for polygon in polygons]
    if all(np.abs(polygon - mask_size / 2).max() <= _MAX_REACH * mask_size for polygon in framed):
        return decode_columns(_rasterise(framed, (mask_size, mask_size)), mask_size, 0, mask_size)
    return _crop(_rasterise(polygons, image_hw), image_hw, box, mask_size)


def decode_mask(segmentation: Segmentation, image_hw: ImageHW) -> np.ndarray:
    """Returns the mask [H, W], uint8 0 or 1, of a validated segmentation in its image."""
    height, width = image_hw
    return decode_columns(_image_counts(segmentation, image_hw), height, 0, width)


def decode_window(segmentation: Segmentation, image_hw: ImageHW, window: tuple[int, int, int, int]) -> np.ndarray:
    """Returns a part of the mask, uint8 [y1 - y0, x1 - x0], of a validated segmentation; `window` is y0, y1, x0, x1."""
    y0, y1, x0, x1 = window
    return decode_columns(_image_counts(segmentation, image_hw), image_hw[0], x0, x1)[y0:y1]


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Returns the uncompressed RLE of a mask [H, W] of 0 and 1: the inverse of `decode_mask`."""
    values = mask.ravel(order="F").astype(np.bool_)
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    counts = np.diff(ends, prepend=0).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if values[0] else counts}


def mask_area(segmentation: Segmentation, image_hw: ImageHW) -> int:
    """Returns the number of pixels of a validated segmentation."""
    return int(_image_counts(segmentation, image_hw)[1::2].sum())


def _image_counts(segmentation: Segmentation, image_hw: ImageHW) -> np.ndarray:
    """Returns the run lengths int64 [R] of a validated segmentation in its image."""
    if isinstance(segmentation, dict):
        return _read_counts(segmentation)
    return _rasterise([np.asarray(polygon, np.float64) for polygon in segmentation], image_hw)
