"""Shapes of annotation tools as COCO annotations: rectangles, circles, ellipses, run lengths, parts of one object."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mrcnn_jax.data.formats.format_data import FormatImage, Rectangles
from mrcnn_jax.data.images import ImageHW

_NUM_POINTS = 64  # of the polygon that replaces a circle or an ellipse


def rectangle(x0: float, y0: float, x1: float, y1: float, rectangles: Rectangles, degrees: float = 0) -> dict[str, Any]:
    """Returns the object of a rectangle given by two opposite corners, turned clockwise around its centre."""
    x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    if degrees:
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        corners = [(x + (a - x) * cos - (b - y) * sin, y + (a - x) * sin + (b - y) * cos) for a, b in corners]
    if rectangles == "masks":
        return {"segmentation": [[side for corner in corners for side in corner]]}
    left, top = (min(corner[axis] for corner in corners) for axis in (0, 1))
    right, bottom = (max(corner[axis] for corner in corners) for axis in (0, 1))
    return {"bbox": [left, top, right - left, bottom - top]}


def ellipse(x: float, y: float, radius_x: float, radius_y: float, radians: float = 0) -> dict[str, Any]:
    """Returns the object of an ellipse around x, y, turned clockwise: a polygon of 64 corners on its outline."""
    angles = np.arange(_NUM_POINTS) * 2 * np.pi / _NUM_POINTS
    u, v = radius_x * np.cos(angles), radius_y * np.sin(angles)
    points = np.stack([x + u * np.cos(radians) - v * np.sin(radians), y + u * np.sin(radians) + v * np.cos(radians)])
    return {"segmentation": [np.round(points.T, 4).ravel().tolist()]}


def encode_region(mask: np.ndarray) -> dict[str, Any]:
    """Returns the compressed RLE of a mask [H, W] of 0 and 1, or of booleans."""
    from pycocotools import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def place_mask(part: np.ndarray, left: int, top: int, image_hw: ImageHW) -> dict[str, Any] | None:
    """Returns the RLE of a mask [h, w] at this place of an image, cut at its border; None if nothing is left."""
    height, width = part.shape
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + height, image_hw[0]), min(left + width, image_hw[1])
    if y0 >= y1 or x0 >= x1:
        return None
    mask = np.zeros(image_hw, np.uint8)
    mask[y0:y1, x0:x1] = part[y0 - top : y1 - top, x0 - left : x1 - left] != 0
    return encode_region(mask)


def add_groups(image: FormatImage, objects: Sequence[tuple[object, dict[str, Any]]]) -> None:
    """Adds objects to an image, of which those with the same group (not None) and category are parts of one.

    Polygons are listed together, run lengths beside them are joined by the reader of segmentations, and boxes become
    the box around all.
    """
    joined: list[dict[str, Any]] = []
    by_group: dict[tuple[object, object], dict[str, Any]] = {}
    for group, item in objects:
        key = (group, item["category"])
        if group is None or key not in by_group:
            joined.append(item := dict(item))
            if group is not None:
                by_group[key] = item
        else:
            _add_part(by_group[key], item)
    image.objects += joined
    if num_parts := len(objects) - len(joined):
        image.repairs.append(("shapes of the same group and class are joined to one object", f"{num_parts} shapes"))


def _add_part(whole: dict[str, Any], part: dict[str, Any]) -> None:
    masks = [item["segmentation"] for item in (whole, part) if "segmentation" in item]
    if masks:
        whole["segmentation"] = masks[0] if len(masks) == 1 else [*_parts(masks[0]), *_parts(masks[1])]
    boxes = [item["bbox"] for item in (whole, part) if "bbox" in item]
    if "segmentation" in whole:
        whole.pop("bbox", None)  # the box of all parts is that of the masks
    elif boxes:
        whole["bbox"] = _box_around(boxes)
    if "keypoints" in part and "keypoints" not in whole:
        whole["keypoints"] = part["keypoints"]


def _parts(segmentation: Any) -> list[Any]:
    return [segmentation] if isinstance(segmentation, dict) else segmentation


def _box_around(boxes: Iterable[Sequence[float]]) -> list[float]:
    x0, y0, x1, y1 = zip(*((x, y, x + width, y + height) for x, y, width, height in boxes), strict=True)
    return [min(x0), min(y0), max(x1) - min(x0), max(y1) - min(y0)]


def box_of_points(keypoints: Sequence[float]) -> list[float]:
    """Returns the box around the annotated ones of keypoints x, y, visibility; [0, 0, 0, 0] if there are none."""
    points = [(x, y) for x, y, v in zip(keypoints[::3], keypoints[1::3], keypoints[2::3], strict=True) if v]
    if not points:
        return [0, 0, 0, 0]
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
