"""Reading polygons in the forms that exports write.

COCO's are [[x, y, x, y, ...], ...] in pixels. What is also read: without the outer list, some lists too deep, as pairs,
as {"x": ..., "y": ...}, as GeoJSON, with numbers as text, with stray parts of fewer than three points.
"""

from typing import Any

import numpy as np

from mrcnn_jax.data.annotations import COORDINATE_BOUND
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.json_values import read_number
from mrcnn_jax.data.mask_boxes import FITS, BBox, bbox_iou, mask_bbox

NO_EXTENT = "a part without extent is dropped"
TOO_SHORT = "a part of fewer than 3 points is dropped"
ODD = "a part with an odd number of coordinates is dropped"

_MAX_DEPTH = 6
_PROVES = 0.9  # IoU with the box from which an outline has the right reading


class Unreadable(Exception):
    """A segmentation in no known form."""


def split_segmentation(value: object) -> tuple[list[dict[str, Any]], list[list[float | None]], list[str]]:
    """Returns the RLEs, the polygon parts as flat lists, and the repairs that this took."""
    codes: list[dict[str, Any]] = []
    parts: list[list[float | None]] = []
    _collect(value, codes, parts, _MAX_DEPTH)
    if isinstance(value, dict) and "counts" not in value:
        return codes, parts, ["segmentation is GeoJSON"]
    is_usual = isinstance(value, dict) or (isinstance(value, list) and all(_is_usual_part(part) for part in value))
    return codes, parts, [] if is_usual else ["segmentation has its lists, or numbers, in another form"]


def _is_usual_part(part: object) -> bool:
    return isinstance(part, list) and all(type(number) in (int, float) for number in part) and len(part) != 2


def _collect(value: object, codes: list[dict[str, Any]], parts: list[list[float | None]], depth: int) -> None:
    if depth == 0:
        raise Unreadable
    if isinstance(value, dict):
        if "counts" in value:
            codes.append(value)
        elif value.get("type") in ("Polygon", "MultiPolygon") and isinstance(value.get("coordinates"), list):
            _collect(value["coordinates"], codes, parts, depth - 1)
        else:
            raise Unreadable
    elif isinstance(value, list):
        if len(value) > 2 and all(
            isinstance(entry, list) and len(entry) == 1 and _is_point(entry[0]) for entry in value
        ):
            value = [entry[0] for entry in value]  # OpenCV's contours [N, 1, 2]
        if value and all(_is_point(entry) for entry in value):
            parts.append([number for entry in value for number in _read_point(entry)])
        elif all(entry is None or not isinstance(entry, list | dict) for entry in value):
            parts.append([read_number(entry) for entry in value])
        else:
            for entry in value:
                _collect(entry, codes, parts, depth - 1)
    else:
        raise Unreadable


def _is_point(entry: object) -> bool:
    if isinstance(entry, dict):
        return set(entry) >= {"x", "y"}
    return isinstance(entry, list) and len(entry) == 2 and not any(isinstance(side, list | dict) for side in entry)


def _read_point(entry: Any) -> list[float | None]:
    x, y = (entry["x"], entry["y"]) if isinstance(entry, dict) else entry
    return [read_number(x), read_number(y)]


def polygon_extent(segmentation: object) -> tuple[float, float, float, float] | None:
    """Returns x0, y0, x1, y1 of the numbers in polygons; None if there are none, or an RLE."""
    try:
        codes, parts, _ = split_segmentation(segmentation)
    except (Unreadable, RecursionError):
        return None
    pairs = [(x, y) for part in parts for x, y in zip(part[::2], part[1::2], strict=False)]
    points = np.array([(x, y) for x, y in pairs if x is not None and y is not None], np.float64)
    if codes or len(points) == 0:
        return None
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def join_x_and_y(parts: list[list[float | None]], image_hw: ImageHW, bbox: BBox) -> list[float | None] | None:
    """Returns the outline whose x are the first part and y the second, if that alone fits the box; else None."""
    if len(parts) != 2 or len(parts[0]) != len(parts[1]) or len(parts[0]) < 3:
        return None
    joined = [side for point in zip(*parts, strict=True) for side in point]
    of_joined, _ = read_polygons([joined], image_hw, (1, 1))
    as_given, _ = read_polygons(parts, image_hw, (1, 1))
    if not of_joined or bbox_iou(mask_bbox([*of_joined], image_hw), bbox) < _PROVES:
        return None
    return joined if not as_given or bbox_iou(mask_bbox([*as_given], image_hw), bbox) < FITS else None


def read_polygons(
    parts: list[list[float | None]], image_hw: ImageHW, scale: tuple[float, float]
) -> tuple[list[list[float]], list[str]]:
    """Returns the parts that are polygons, in pixels, and the repairs that this took.

    `scale` are the pixels of the file's unit along x and y.
    """
    bound = COORDINATE_BOUND * max(image_hw)
    polygons: list[list[float]] = []
    repairs = []
    for part in _split_at_gaps(parts):
        if len(part) % 2 != 0:
            repairs.append(ODD)
            continue
        points = [(x, y) for x, y in zip(part[::2], part[1::2], strict=True) if x is not None and y is not None]
        if scale != (1, 1):
            points = [(x * scale[0], y * scale[1]) for x, y in points]
        if len(points) < len(part) // 2:
            repairs.append("points without finite coordinates are dropped")
        if any(abs(x) > bound or abs(y) > bound for x, y in points):
            repairs.append("a part far outside the image is dropped")
            continue
        if len(points) < 3 or _shoelace(points) == 0.0:
            repairs.append(NO_EXTENT if len(points) >= 3 else TOO_SHORT)
            continue
        polygons.append([side for point in points for side in point])
    return polygons, repairs


def _split_at_gaps(parts: list[list[float | None]]) -> list[list[float | None]]:
    """Returns the parts, cut at points without coordinates that separate polygons of at least three points each."""
    result = []
    for part in parts:
        pieces: list[list[float | None]] = [[]]
        for x, y in zip(part[::2], part[1::2], strict=False):
            if x is None and y is None:
                pieces.append([])
            else:
                pieces[-1] += [x, y]
        are_polygons = len(part) % 2 == 0 and all(len(piece) >= 6 for piece in pieces)
        result += pieces if are_polygons else [part]
    return result


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
