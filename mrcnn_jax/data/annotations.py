"""Validation of single COCO annotations, in plain Python, before they are passed to pycocotools.

pycocotools crashes the interpreter on far-away polygon coordinates and returns uninitialised memory for run lengths
that do not sum to the image size. A COCO RLE lists run lengths in column-major order, zeros first.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mrcnn_jax.data.images import ImageHW

Segmentation = list[list[float]] | dict[str, Any]
"""Polygons [[x, y, x, y, ...], ...] in pixels, or an RLE {"size": [height, width], "counts": text or list}."""

COORDINATE_BOUND = 10
"""Coordinates may lie outside the image by this many times its longer side."""

MIN_BOX_SIDE = 1e-3
"""Boxes are rejected if their part inside the image is thinner than this, in pixels."""

_RLE_MAX_CHARS = 7  # per run length: 35 bits


def decode_counts(counts: object) -> np.ndarray | None:
    """Returns the run lengths int64 [R] of compressed (text) or uncompressed (list) RLE counts; None if malformed."""
    if isinstance(counts, list):
        if not all(type(count) is int and 0 <= count < 2**31 for count in counts):
            return None
        return np.asarray(counts, np.int64)
    if not isinstance(counts, str) or not counts or not counts.isascii():
        return None
    return _decode_text(counts)


@lru_cache(maxsize=256)  # an annotation is decoded several times while it is read
def _decode_text(counts: str) -> np.ndarray | None:
    """Returns the run lengths int64 [R] of compressed counts, read-only; None if malformed."""
    chars = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if chars.min() < 0 or chars.max() > 63:
        return None
    # Each character holds 5 bits, lowest first, and a continuation flag; bit 0x10 of the last one is the sign.
    is_last = (chars & 0x20) == 0
    ends = np.flatnonzero(is_last)
    if len(ends) == 0 or ends[-1] != len(chars) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    num_chars = ends - starts + 1
    if num_chars.max() > _RLE_MAX_CHARS:
        return None
    shift = 5 * (np.arange(len(chars)) - np.repeat(starts, num_chars))
    values = np.add.reduceat((chars & 0x1F) << shift, starts)
    values -= np.where(chars[ends] & 0x10, np.int64(1) << (5 * num_chars), 0)
    # From the fourth on, each run is stored as its difference from the run two before it.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    values.flags.writeable = False
    return values if values.min() >= 0 else None


def clip_bbox(bbox: Sequence[float], image_hw: ImageHW) -> tuple[float, float, float, float]:
    """Returns the box x0, y0, x1, y1 of a COCO bbox (x, y, width, height), clipped to the image."""
    x, y, width, height = bbox
    image_height, image_width = image_hw
    x0, x1 = (min(max(value, 0.0), float(image_width)) for value in (x, x + width))
    y0, y1 = (min(max(value, 0.0), float(image_height)) for value in (y, y + height))
    return x0, y0, x1, y1


def _are_numbers(values: object, bound: float) -> bool:
    """Returns whether `values` is a list of numbers within +-bound. NaN, infinity and booleans do not count."""
    return isinstance(values, list) and all(type(v) in (int, float) and -bound <= v <= bound for v in values)


def check_bbox(bbox: object, image_hw: ImageHW) -> str | None:
    """Returns why a COCO bbox cannot be used, as a short fixed text; None if it can."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not _are_numbers(bbox, COORDINATE_BOUND * max(image_hw)):
        return "bbox is not four finite numbers, or far outside"
    if bbox[2] <= 0 or bbox[3] <= 0:
        return "bbox has no extent"
    x, y, width, height = bbox
    if x >= image_hw[1] or y >= image_hw[0] or x + width <= 0 or y + height <= 0:
        return "bbox is outside the image"
    x0, y0, x1, y1 = clip_bbox(bbox, image_hw)
    if min(x1 - x0, y1 - y0) < MIN_BOX_SIDE:
        return "bbox has no extent"
    return None


def _check_segmentation(segmentation: object, image_hw: ImageHW) -> str | None:
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if size != list(image_hw) or not all(type(side) is int for side in size):
            return "RLE size differs from the image"
        counts = decode_counts(segmentation.get("counts"))
        if counts is None or counts.sum() != image_hw[0] * image_hw[1]:
            return "RLE counts do not sum to its size"
        return "mask is empty" if counts[1::2].sum() == 0 else None
    if not isinstance(segmentation, list):
        return "segmentation is neither polygons nor RLE"
    for polygon in segmentation:
        if not isinstance(polygon, list):
            return "segmentation is neither polygons nor RLE"
        if len(polygon) < 6 or len(polygon) % 2 != 0:
            return "polygon has an odd number of coordinates or fewer than 3 points"
        if not _are_numbers(polygon, COORDINATE_BOUND * max(image_hw)):
            return "polygon coordinate is not finite or far outside"
    return None


def has_mask(annotation: Mapping[str, Any]) -> bool:
    """Returns whether a COCO annotation has a segmentation that is not empty."""
    segmentation = annotation.get("segmentation")
    return bool(segmentation) and segmentation != [[]]


def find_fault(annotation: dict[str, Any], image_hw: ImageHW, num_keypoints: int | None = None) -> str | None:
    """Returns why a COCO annotation cannot be used, as a short fixed text for counting skips; None if it can.

    A missing or empty segmentation is no fault. `num_keypoints` is that of the category, if known.
    """
    if annotation.get("iscrowd", 0) not in (0, 1):
        return "iscrowd is neither 0 nor 1"
    if fault := check_bbox(annotation.get("bbox"), image_hw):
        return fault
    if has_mask(annotation) and (fault := _check_segmentation(annotation["segmentation"], image_hw)):
        return fault
    area = annotation.get("area")
    if area is not None and (not _are_numbers([area], 1e12) or area < 0):
        return "area is not a finite positive number"
    keypoints = annotation.get("keypoints") or []
    if not _are_numbers(keypoints, COORDINATE_BOUND * max(image_hw)) or len(keypoints) % 3 != 0:
        return "keypoints are not three finite numbers each"
    if keypoints and num_keypoints is not None and len(keypoints) != 3 * num_keypoints:
        return "number of keypoints differs from the category's"
    return None
