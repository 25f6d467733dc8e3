"""Reading segmentations in the forms that exports write, as valid polygons or run-length encodings (RLE).

What is read: polygons as [[x, y, x, y, ...], ...], without the outer list, one list too deep, as pairs or as
{"x": ..., "y": ...}, with numbers as text, with stray parts of fewer than three points, and with holes that the
object's area proves; RLE with its size missing, as text or float, without its last run, in a list, and row by row or
with sides exchanged where the object's box proves it.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mrcnn_jax.data.annotations import COORDINATE_BOUND, Segmentation, decode_counts
from mrcnn_jax.data.bitmaps import decode_columns, decode_mask, encode_mask, mask_area
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.json_values import read_integer, read_number

BBox = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

FITS = 0.5
"""IoU from which a mask and the box of the file are taken to be of one object."""
_PROVES = 0.9  # IoU from which a box decides between two readings of an RLE
_MAX_DEPTH = 6
_BYTES = ("b'", 'b"')
_NO_EXTENT = "a part without extent is dropped"
_THIN = 2.0  # pixels; polygons that are wider and higher, and larger, cover a pixel for certain


@dataclass
class ReadMask:
    """The mask of an object."""

    segmentation: Segmentation | None = None  # None if the file gives none, or none that can be read
    is_empty: bool = False  # the segmentation is well-formed, but covers no pixel
    repairs: list[str] = field(default_factory=list)


def read_segmentation(value: object, image_hw: ImageHW, bbox: BBox | None, area: float | None) -> ReadMask:
    """Reads the `segmentation` of an object in an image of this size; `bbox` and `area` decide where it is unclear."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return ReadMask(repairs=["segmentation cannot be read; the box is kept"])
    if value is None or value in ([], {}, ""):
        return ReadMask()
    try:
        codes, parts, repairs = _split(value)
    except (_Unreadable, RecursionError):
        return ReadMask(repairs=["segmentation cannot be read; the box is kept"])
    masks: list[Segmentation] = []
    for code in codes:
        read = _read_code(code, image_hw, bbox if len(codes) == 1 and not parts else None)
        if read is None:
            return ReadMask(repairs=["run lengths do not fit the image; the box is kept"])
        masks.append(read[0])
        repairs += read[1]
    polygons, dropped = _read_polygons(parts, image_hw)
    repairs += dropped
    if polygons:
        masks.append(polygons)
    if not masks:
        if dropped and all(reason == _NO_EXTENT for reason in dropped) and any(len(part) >= 6 for part in parts):
            return ReadMask(is_empty=True)
        return ReadMask(repairs=["segmentation cannot be read; the box is kept"])
    if len(masks) > 1:
        union = np.bitwise_or.reduce([decode_mask(mask, image_hw) for mask in masks])
        return _checked(encode_mask(union), image_hw, [*repairs, "several segmentations of one object are joined"])
    if polygons and len(polygons) > 1 and area is not None:
        with_holes = _cut_holes(polygons, image_hw, area)
        if with_holes is not None:
            return _checked(with_holes, image_hw, [*repairs, "the area proves a hole, which is cut out"])
    return _checked(masks[0], image_hw, repairs)


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


class _Unreadable(Exception):
    pass


def _split(value: object) -> tuple[list[dict[str, Any]], list[list[float | None]], list[str]]:
    """Returns the RLEs, the polygon parts as flat lists, and the repairs that this took."""
    codes: list[dict[str, Any]] = []
    parts: list[list[float | None]] = []
    _collect(value, codes, parts, _MAX_DEPTH)
    is_usual = isinstance(value, dict) or (isinstance(value, list) and all(_is_usual_part(part) for part in value))
    return codes, parts, [] if is_usual else ["segmentation has its lists, or numbers, in another form"]


def _is_usual_part(part: object) -> bool:
    return isinstance(part, list) and all(type(number) in (int, float) for number in part) and len(part) != 2


def _collect(value: object, codes: list[dict[str, Any]], parts: list[list[float | None]], depth: int) -> None:
    if depth == 0:
        raise _Unreadable
    if isinstance(value, dict):
        if "counts" not in value:
            raise _Unreadable
        codes.append(value)
    elif isinstance(value, list):
        if value and all(_is_point(entry) for entry in value):
            parts.append([number for entry in value for number in _read_point(entry)])
        elif all(entry is None or not isinstance(entry, list | dict) for entry in value):
            parts.append([read_number(entry) for entry in value])
        else:
            for entry in value:
                _collect(entry, codes, parts, depth - 1)
    else:
        raise _Unreadable


def _is_point(entry: object) -> bool:
    if isinstance(entry, dict):
        return set(entry) >= {"x", "y"}
    return isinstance(entry, list) and len(entry) == 2 and not any(isinstance(side, list | dict) for side in entry)


def _read_point(entry: Any) -> list[float | None]:
    x, y = (entry["x"], entry["y"]) if isinstance(entry, dict) else entry
    return [read_number(x), read_number(y)]


def _read_polygons(parts: list[list[float | None]], image_hw: ImageHW) -> tuple[list[list[float]], list[str]]:
    """Returns the parts that are polygons, and the repairs that this took."""
    bound = COORDINATE_BOUND * max(image_hw)
    polygons: list[list[float]] = []
    repairs = []
    for part in parts:
        if len(part) % 2 != 0:
            repairs.append("a part with an odd number of coordinates is dropped")
            continue
        points = [(x, y) for x, y in zip(part[::2], part[1::2], strict=True) if x is not None and y is not None]
        if len(points) < len(part) // 2:
            repairs.append("points without finite coordinates are dropped")
        if any(abs(x) > bound or abs(y) > bound for x, y in points):
            repairs.append("a part far outside the image is dropped")
            continue
        if len(points) < 3 or _shoelace(points) == 0.0:
            repairs.append(_NO_EXTENT)
            continue
        polygons.append([side for point in points for side in point])
    return polygons, repairs


def _shoelace(points: list[tuple[float, float]]) -> float:
    """Returns twice the area between the points and the axis of each pair; 0 if all points are on one line."""
    x, y = np.array(points, np.float64).T
    x, y = x - x[0], y - y[0]
    area = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
    if area > 1e-9:
        return area
    # A figure of eight has no signed area, but extent.
    singular = np.linalg.svd(np.stack([x, y]), compute_uv=False)
    return float(singular[-1]) if singular[-1] > 1e-9 * max(1.0, float(singular[0])) else 0.0


def _cut_holes(polygons: list[list[float]], image_hw: ImageHW, area: float) -> dict[str, Any] | None:
    """Returns the RLE in which parts inside other parts are holes, if the area fits that and not the union."""
    boxes = [mask_bbox([polygon], image_hw) for polygon in polygons]
    if not any(_contains(a, b) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i != j):
        return None
    masks = [decode_mask([polygon], image_hw) for polygon in polygons]
    union, even_odd = np.bitwise_or.reduce(masks), np.bitwise_xor.reduce(masks)
    of_union, of_even_odd = int(union.sum()), int(even_odd.sum())
    if of_even_odd == 0 or abs(of_even_odd - area) > 0.25 * abs(of_union - area):
        return None
    return encode_mask(even_odd) if abs(of_even_odd - area) <= 0.05 * area + 1 else None


def _contains(outer: BBox, inner: BBox) -> bool:
    x0, y0, x1, y1 = outer[0], outer[1], outer[0] + outer[2], outer[1] + outer[3]
    return x0 <= inner[0] and y0 <= inner[1] and inner[0] + inner[2] <= x1 and inner[1] + inner[3] <= y1


def _checked(segmentation: Segmentation, image_hw: ImageHW, repairs: list[str]) -> ReadMask:
    if isinstance(segmentation, list) and not _may_be_empty(segmentation, image_hw):
        return ReadMask(segmentation, False, repairs)
    is_empty = mask_area(segmentation, image_hw) == 0
    return ReadMask(None if is_empty else segmentation, is_empty, repairs)


def _may_be_empty(polygons: list[list[float]], image_hw: ImageHW) -> bool:
    for polygon in polygons:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        is_inside = points.min() >= 0 and (points.max(axis=0) <= image_hw[::-1]).all()
        x, y = points.T
        signed = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
        if is_inside and signed >= _THIN**2 and np.ptp(points, axis=0).min() >= _THIN:
            return False
    return True


def _read_code(code: dict[str, Any], image_hw: ImageHW, bbox: BBox | None) -> tuple[dict[str, Any], list[str]] | None:
    """Returns the valid RLE that an RLE means and the repairs that this took; None if it fits no image of this size."""
    repairs = []
    counts = _read_counts(code.get("counts"))
    if counts is None or len(counts) == 0:
        return None
    if isinstance(code["counts"], str):
        if code["counts"][:2] in _BYTES:
            repairs.append("run lengths are the text of Python bytes")
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
    if reading == _ROWS:
        repairs.append("run lengths are row by row, as the box proves")
        return encode_mask(_decode_rows(counts, image_hw)), repairs
    return {"size": list(image_hw), "counts": counts.tolist() if repairs else code["counts"]}, repairs


_COLUMNS, _ROWS = "columns", "rows"


def _decode_rows(counts: np.ndarray, image_hw: ImageHW) -> np.ndarray:
    """Returns the mask [H, W] of run lengths that were counted row by row."""
    return np.ascontiguousarray(decode_columns(counts, image_hw[1], 0, image_hw[0]).T)


def _choose_reading(counts: np.ndarray, image_hw: ImageHW, bbox: BBox | None) -> str | None:
    """Returns whether the run lengths are column by column, as they should be, or row by row; None if no box says."""
    if bbox is None:
        return None
    code = {"size": list(image_hw), "counts": counts.tolist()}
    if counts[1::2].sum() == 0 or bbox_iou(mask_bbox(code, image_hw), bbox) >= FITS:
        return _COLUMNS
    if bbox_iou(mask_bbox(encode_mask(_decode_rows(counts, image_hw)), image_hw), bbox) >= _PROVES:
        return _ROWS
    return None


def _read_counts(counts: object) -> np.ndarray | None:
    if isinstance(counts, str) and counts[:2] in _BYTES:
        counts = counts[2:-1].replace("\\\\", "\\")
    if isinstance(counts, list):
        numbers = [read_integer(count) for count in counts]
        return decode_counts(numbers)
    return decode_counts(counts)
