"""What the checks need of the objects of one image: boxes, the extents of masks, and objects that lie on each other.

Shapes: n objects. Boxes are x0, y0, x1, y1 in pixels of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrcnn_jax.data.annotations import Segmentation, clip_bbox
from mrcnn_jax.data.bitmaps import make_bitmap, mask_area
from mrcnn_jax.data.dataset import ObjectRecord
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.mask_boxes import mask_bbox

SAME_BOX_IOU = 0.9
"""IoU of boxes from which two objects may be the same one."""
SAME_MASK_IOU = 0.8
"""IoU of masks, as bitmaps in the box around both, from which such objects are the same one."""
_BITMAP_SIDE = 56
_BLOCK = 128  # objects compared with all others at a time
_FULL = 0.995  # share of its box that a rectangular mask fills


@dataclass(frozen=True)
class ObjectFacts:
    """The objects of one image in the order of its record."""

    ids: np.ndarray  # [n] int64
    labels: np.ndarray  # [n] int64, 1..C
    is_crowd: np.ndarray  # [n] bool
    boxes: np.ndarray  # [n, 4] float64, clipped to the image
    outside: np.ndarray  # [n] share of the box's area outside the image
    areas: np.ndarray  # [n] pixels, as annotated
    mask_boxes: np.ndarray  # [n, 4], NaN for objects without a mask
    mask_areas: np.ndarray  # [n] pixels, NaN for objects without a mask
    is_rectangle: np.ndarray  # [n] bool: the mask fills its box
    same: tuple[tuple[int, int], ...]  # pairs of objects, first before second, that cover the same pixels

    def __len__(self) -> int:
        return len(self.ids)


def measure_objects(objects: Sequence[ObjectRecord], image_hw: ImageHW) -> ObjectFacts:
    """Returns the facts of all objects of an image."""
    boxes = np.array([clip_bbox(item.bbox, image_hw) for item in objects], np.float64).reshape(-1, 4)
    mask_boxes = np.full((len(objects), 4), np.nan)
    mask_areas = np.full(len(objects), np.nan)
    for index, item in enumerate(objects):
        if item.segmentation:
            x, y, width, height = mask_bbox(item.segmentation, image_hw)
            mask_boxes[index] = x, y, x + width, y + height
            mask_areas[index] = _area(item.segmentation, image_hw)
    given = np.array([item.bbox[2] * item.bbox[3] for item in objects], np.float64)
    return ObjectFacts(
        ids=np.array([item.id for item in objects], np.int64),
        labels=np.array([item.label for item in objects], np.int64),
        is_crowd=np.array([item.is_crowd for item in objects], np.bool_),
        boxes=boxes,
        outside=1 - box_areas(boxes) / np.maximum(given, 1e-9),
        areas=np.array([item.area for item in objects], np.float64),
        mask_boxes=mask_boxes,
        mask_areas=mask_areas,
        is_rectangle=mask_areas >= _FULL * np.maximum(box_areas(mask_boxes), 1e-9),
        same=tuple(_find_same(objects, boxes, image_hw)),
    )


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Returns the areas [n] of boxes [n, 4]."""
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
    return np.asarray((x1 - x0) * (y1 - y0))


def paired_ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the IoU of boxes [..., 4] with boxes that broadcast to them; NaN if a box is NaN, 0 for empty boxes."""
    width = np.minimum(first[..., 2], second[..., 2]) - np.maximum(first[..., 0], second[..., 0])
    height = np.minimum(first[..., 3], second[..., 3]) - np.maximum(first[..., 1], second[..., 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    return np.asarray(shared / np.maximum(box_areas(first) + box_areas(second) - shared, 1e-9))


def _area(segmentation: Segmentation, image_hw: ImageHW) -> float:
    """Returns the area of a mask; that of a single polygon is exact, not counted in pixels."""
    if isinstance(segmentation, list) and len(segmentation) == 1:
        x, y = np.reshape(np.asarray(segmentation[0], np.float64), (-1, 2)).T
        x, y = np.clip(x, 0, image_hw[1]), np.clip(y, 0, image_hw[0])
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
    return float(mask_area(segmentation, image_hw))


def _find_same(objects: Sequence[ObjectRecord], boxes: np.ndarray, image_hw: ImageHW) -> list[tuple[int, int]]:
    """Returns the pairs of objects that cover the same pixels. Crowds are left out."""
    pairs = []
    for start in range(0, len(boxes), _BLOCK):
        rest = boxes[start:]
        close = np.argwhere(paired_ious(rest[:_BLOCK, None], rest[None]) >= SAME_BOX_IOU) + start
        pairs += [(first, second) for first, second in close.tolist() if first < second]
    return [
        (first, second)
        for first, second in pairs
        if not (objects[first].is_crowd or objects[second].is_crowd)
        and _are_same_masks(objects[first], objects[second], boxes[[first, second]], image_hw)
    ]


def _are_same_masks(first: ObjectRecord, second: ObjectRecord, boxes: np.ndarray, image_hw: ImageHW) -> bool:
    """Returns whether two masks are the same; a mask and a box, or two boxes, are if their boxes are."""
    if first.segmentation is None or second.segmentation is None or first.segmentation == second.segmentation:
        return True
    around = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    a, b = (make_bitmap(each.segmentation, around, image_hw, _BITMAP_SIDE) for each in (first, second))  # type: ignore[arg-type]
    return bool((a & b).sum() >= SAME_MASK_IOU * max((a | b).sum(), 1))
