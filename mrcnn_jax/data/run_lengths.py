"""Reading run-length encodings (RLE) in the forms that exports write.

COCO's counts are column by column, zeros first, and sum to the image's size. What is also read: a missing size, sizes
and counts as text or float, counts without the last run, and counts row by row or with the width before the height
where the object's box proves it.
"""

import json
from typing import Any

import numpy as np

from mrcnn_jax.data.annotations import decode_counts
from mrcnn_jax.data.bitmaps import decode_columns, encode_mask
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.json_values import read_integer
from mrcnn_jax.data.mask_boxes import FITS, BBox, bbox_iou, mask_bbox

_PROVES = 0.9  # IoU from which a box decides between two readings
_BYTES = ("b'", 'b"')


def read_run_lengths(
    code: dict[str, Any], image_hw: ImageHW, bbox: BBox | None
) -> tuple[dict[str, Any], list[str]] | None:
    """Returns the valid RLE that an RLE means and the repairs that this took; None if it fits no image of this size."""
    repairs = []
    counts = _read_counts(code.get("counts"))
    if counts is None or len(counts) == 0:
        return None
    if isinstance(code["counts"], str):
        if not _is_compressed(code["counts"]):
            repairs.append("run lengths are the text of Python bytes, or of a list")
    elif any(type(count) is not int for count in code["counts"]):
        repairs.append("run lengths are not integers")
    num_pixels = image_hw[0] * image_hw[1]
    given = code.get("size")
    sides = [read_integer(side) for side in given] if isinstance(given, list) else []
    if len(sides) == 2 and None not in sides and sides[0] and sides[1]:
        if sides not in (list(image_hw), list(image_hw[::-1])):
            return None
        if sides != given:
            repairs.append("size of the run lengths is not of integers")
    else:
        sides = list(image_hw)
        repairs.append("size of the run lengths is missing")
    missing = num_pixels - int(counts.sum())
    if missing < 0 or (missing > 0 and len(counts) % 2 != 0):
        return None
    if missing > 0:
        counts = np.append(counts, missing)
        repairs.append("last run of the run lengths is missing")
    is_exchanged = sides != list(image_hw)
    reading = _choose_reading(counts, image_hw, bbox)
    if reading is None and (missing > 0 or is_exchanged):
        return None  # no box proves what the code means
    if is_exchanged:
        repairs.append("size of the run lengths has the width first")
    if reading == _INVERTED:
        repairs.append("first run of the run lengths is missing, as the box proves")
        return {"size": list(image_hw), "counts": [0, *counts.tolist()]}, repairs
    if reading == _ROWS:
        repairs.append("run lengths are row by row, as the box proves")
        return encode_mask(_decode_rows(counts, image_hw)), repairs
    return {"size": list(image_hw), "counts": counts.tolist() if repairs else code["counts"]}, repairs


_COLUMNS, _ROWS, _INVERTED = "columns", "rows", "inverted"


def _decode_rows(counts: np.ndarray, image_hw: ImageHW) -> np.ndarray:
    """Returns the mask [H, W] of run lengths that were counted row by row."""
    return np.ascontiguousarray(decode_columns(counts, image_hw[1], 0, image_hw[0]).T)


def _choose_reading(counts: np.ndarray, image_hw: ImageHW, bbox: BBox | None) -> str | None:
    """Returns how the box proves that run lengths are counted; None if it proves nothing.

    They are column by column, as they should be, or row by row, or column by column without the leading run of zeros.
    """
    if bbox is None:
        return None
    code = {"size": list(image_hw), "counts": counts.tolist()}
    if counts[1::2].sum() == 0 or bbox_iou(mask_bbox(code, image_hw), bbox) >= FITS:
        return _COLUMNS
    if bbox_iou(mask_bbox(encode_mask(_decode_rows(counts, image_hw)), image_hw), bbox) >= _PROVES:
        return _ROWS
    inverted = {"size": list(image_hw), "counts": [0, *counts.tolist()]}
    if counts[::2].sum() > 0 and bbox_iou(mask_bbox(inverted, image_hw), bbox) >= _PROVES:
        return _INVERTED
    return None


def _is_compressed(counts: str) -> bool:
    """Returns whether a text may be compressed run lengths, in which neither quotes nor commas occur."""
    return "'" not in counts and '"' not in counts and "," not in counts


def _read_counts(counts: object) -> np.ndarray | None:
    if isinstance(counts, str) and counts[:2] in _BYTES:
        counts = counts[2:-1].replace("\\\\", "\\")
    if isinstance(counts, str) and not _is_compressed(counts):
        try:
            counts = json.loads(counts)
        except (ValueError, RecursionError):
            return None
    if isinstance(counts, list):
        numbers = [read_integer(count) for count in counts]
        return decode_counts(numbers)
    return decode_counts(counts)
