"""Reading the segmentation of an object: polygons (polygons.py), run lengths (run_lengths.py), or a bitmap."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mrcnn_jax.data.annotations import Segmentation
from mrcnn_jax.data.bitmaps import decode_mask, encode_mask, mask_area
from mrcnn_jax.data.corner_order import reorder_corners
from mrcnn_jax.data.data_findings import BOX_KEPT
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.mask_boxes import BBox, mask_bbox
from mrcnn_jax.data.polygons import (
    NO_EXTENT,
    ODD,
    TOO_SHORT,
    Unreadable,
    join_x_and_y,
    read_polygons,
    split_segmentation,
)
from mrcnn_jax.data.run_lengths import read_run_lengths

_THIN = 2.0  # pixels; polygons that are wider and higher, and larger, cover a pixel for certain


@dataclass
class ReadMask:
    """The mask of an object."""

    segmentation: Segmentation | None = None  # None if the file gives none, or none that can be read
    is_empty: bool = False  # the segmentation is well-formed, but covers no pixel
    repairs: list[str] = field(default_factory=list)


def read_segmentation(
    value: object,
    image_hw: ImageHW,
    bbox: BBox | None = None,
    area: float | None = None,
    scale: tuple[float, float] = (1, 1),
    *,
    y_first: bool = False,
) -> ReadMask:
    """Reads the `segmentation` of an object in an image of this size; `bbox` and `area` decide where it is unclear.

    `scale` are the pixels of a polygon's unit along x and y. `y_first`: the points of polygons are y, x.
    """
    if value is None or value in ([], {}, ""):
        return ReadMask()
    bitmap = read_bitmap(value, image_hw)
    if bitmap is not None:
        return _checked(encode_mask(bitmap), image_hw, ["segmentation is a bitmap"])
    try:
        codes, parts, repairs = split_segmentation(value)
    except (Unreadable, RecursionError):
        return _lost("segmentation cannot be read")
    if not codes and not any(parts):
        return ReadMask()
    if y_first and any(parts):
        parts = [[number for y, x in zip(part[::2], part[1::2], strict=False) for number in (x, y)] for part in parts]
        repairs.append("points of the segmentation are y, x, as the images prove")
    masks: list[Segmentation] = []
    for code in codes:
        read = read_run_lengths(code, image_hw, bbox if len(codes) == 1 and not parts else None)
        if read is None:
            return _lost("run lengths do not fit the image")
        masks.append(read[0])
        repairs += read[1]
    if not codes and bbox is not None and (outline := join_x_and_y(parts, image_hw, bbox)):
        parts = [outline]
        repairs.append("coordinates are a list of x and one of y, as the box proves")
    polygons, dropped = read_polygons(parts, image_hw, scale)
    repairs += dropped
    if polygons:
        masks.append(polygons)
    if not masks:
        return _explain_empty(dropped)
    if area and len(polygons) == 1 and (ordered := reorder_corners(polygons[0], area)):
        polygons[0] = ordered
        repairs.append("corners are out of order, as the area proves")
    if len(masks) > 1:
        union = np.bitwise_or.reduce([decode_mask(mask, image_hw) for mask in masks])
        return _checked(encode_mask(union), image_hw, [*repairs, "several segmentations of one object are joined"])
    if polygons and len(polygons) > 1:
        is_geojson = isinstance(value, dict)
        with_holes = _cut_holes(polygons, image_hw, None if is_geojson else area) if is_geojson or area else None
        if with_holes is not None:
            proof = [] if is_geojson else ["the area proves a hole, which is cut out"]
            return _checked(with_holes, image_hw, repairs + proof)
    return _checked(masks[0], image_hw, repairs)


def _lost(reason: str) -> ReadMask:
    return ReadMask(repairs=[reason + BOX_KEPT])


def _explain_empty(dropped: list[str]) -> ReadMask:
    """Returns what remains if all parts were dropped for these reasons."""
    if dropped and all(reason in (NO_EXTENT, TOO_SHORT) for reason in dropped) and NO_EXTENT in dropped:
        return ReadMask(is_empty=True)
    if TOO_SHORT in dropped:
        return _lost("segmentation has fewer than 3 points")
    if ODD in dropped:
        return _lost("segmentation has an odd number of coordinates")
    return _lost("segmentation cannot be read")


def read_bitmap(value: object, image_hw: ImageHW) -> np.ndarray | None:
    """Returns the mask [H, W] that is written as H lists of W numbers of two values, the lower of which is outside."""
    if not isinstance(value, list) or len(value) != image_hw[0] or image_hw[0] < 2:
        return None
    if not all(isinstance(row, list) and len(row) == image_hw[1] for row in value):
        return None
    try:
        rows = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return None
    values = np.unique(rows)
    return (rows > 0).astype(np.uint8) if rows.ndim == 2 and len(values) <= 2 and values[0] == 0 else None


def _cut_holes(polygons: list[list[float]], image_hw: ImageHW, area: float | None) -> dict[str, Any] | None:
    """Returns the RLE in which parts inside other parts are holes, if there are such and the area, if any, proves it.

    It does if it fits that and not the union.
    """
    boxes = [mask_bbox([polygon], image_hw) for polygon in polygons]
    if not any(_contains(a, b) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i != j):
        return None
    masks = [decode_mask([polygon], image_hw) for polygon in polygons]
    union, even_odd = np.bitwise_or.reduce(masks), np.bitwise_xor.reduce(masks)
    if area is None:
        return encode_mask(even_odd)
    of_union, of_even_odd = int(union.sum()), int(even_odd.sum())
    # Outlines through the centres of pixels, as OpenCV's are, lack half a pixel along the rim of the object.
    rim = sum(map(_num_steps, polygons)) / 2
    misfit = min(abs(of_even_odd - area), abs(of_even_odd + rim - area))
    of_other = max(of_union - area, area - of_union - rim, 0)  # beyond what the union has without or with its rim
    is_hole = of_even_odd > 0 and misfit < 0.25 * of_other and misfit <= 0.05 * area + 1
    return encode_mask(even_odd) if is_hole else None


def _num_steps(polygon: list[float]) -> float:
    """Returns the steps from pixel to pixel, also diagonal ones, along an outline."""
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


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
