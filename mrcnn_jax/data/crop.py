"""Large-scale jitter (arXiv 2012.07177, section 3): a random size, and a random window if it exceeds the canvas.

A cropped object is the part inside the window, still in pixels of the whole image: its bitmap is made from the same
segmentation, relative to the clipped box. Shapes: G objects; K keypoints.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mrcnn_jax.config import Canvas
from mrcnn_jax.data.annotations import clip_bbox
from mrcnn_jax.data.bitmaps import make_bitmap
from mrcnn_jax.data.dataset import ObjectRecord
from mrcnn_jax.data.images import ImageHW

MIN_SIDE = 1.0
"""Objects are dropped if a side of their visible box is shorter, in pixels of the network input."""


@dataclass(frozen=True)
class CropWindow:
    """The part of a resized image that is kept, in its pixels."""

    top: int
    left: int
    hw: ImageHW


def draw_window(image_hw: ImageHW, canvas: Canvas, rng: np.random.Generator) -> CropWindow:
    """Returns a window of the canvas's size at a random place.

    Along an axis that fits, the window covers the whole image, and no random number is drawn.
    """
    top, left = (
        int(rng.integers(side - limit + 1)) if side > limit else 0 for side, limit in zip(image_hw, canvas, strict=True)
    )
    return CropWindow(top, left, (min(image_hw[0], canvas[0]), min(image_hw[1], canvas[1])))


def crop_image(image: np.ndarray, window: CropWindow) -> np.ndarray:
    """Returns the part of an image [H, W, 3] inside the window."""
    height, width = window.hw
    return image[window.top : window.top + height, window.left : window.left + width]


def move_boxes(boxes: np.ndarray, window: CropWindow) -> np.ndarray:
    """Returns the boxes [G, 4] in pixels of the window, float32."""
    return boxes - np.array([window.left, window.top] * 2, np.float32)


def move_keypoints(keypoints: np.ndarray, window: CropWindow) -> np.ndarray:
    """Returns the keypoints [K, 3] in pixels of the window, float32, with zeros for x and y at visibility 0."""
    moved = keypoints - np.array([window.left, window.top, 0], np.float32)
    return np.where(keypoints[:, 2:] > 0, moved, np.float32(0.0))


def crop_objects(
    objects: Iterable[ObjectRecord], window: CropWindow, old_hw: ImageHW, new_hw: ImageHW, mask_size: int
) -> list[ObjectRecord]:
    """Returns the objects inside the window of an image that was resized from `old_hw` to `new_hw`.

    Boxes are clipped, areas are those of the visible parts, and keypoints outside become invisible. An object is
    dropped if a visible side is shorter than MIN_SIDE or if its bitmap is empty. The visible part of an object without
    a mask is that of its box.
    """
    scale_y, scale_x = new_hw[0] / old_hw[0], new_hw[1] / old_hw[1]
    # Multiplying first gives exactly the image's border where the window ends there.
    left, right = (x * old_hw[1] / new_hw[1] for x in (window.left, window.left + window.hw[1]))
    top, bottom = (y * old_hw[0] / new_hw[0] for y in (window.top, window.top + window.hw[0]))
    kept = []
    for item in objects:
        whole = clip_bbox(item.bbox, old_hw)
        x0, y0, x1, y1 = max(whole[0], left), max(whole[1], top), min(whole[2], right), min(whole[3], bottom)
        if (x1 - x0) * scale_x < MIN_SIDE or (y1 - y0) * scale_y < MIN_SIDE:
            continue
        item = replace(item, keypoints=_hide_outside(item.keypoints, (left, top, right, bottom)))
        if (x0, y0, x1, y1) != whole:
            share = 1.0  # of the box
            if item.segmentation is not None:
                bitmap = make_bitmap(item.segmentation, np.array([x0, y0, x1, y1]), old_hw, mask_size)
                if not bitmap.any():
                    continue
                share = float(bitmap.mean())
            item = replace(item, bbox=(x0, y0, x1 - x0, y1 - y0), area=share * (x1 - x0) * (y1 - y0))
        kept.append(item)
    return kept


def _hide_outside(keypoints: tuple[float, ...], part: tuple[float, float, float, float]) -> tuple[float, ...]:
    """Returns the keypoints, with zeros for those with a pixel centre outside `part`."""
    left, top, right, bottom = part
    points = np.reshape(np.asarray(keypoints, np.float64), (-1, 3))
    x, y = points[:, 0] + 0.5, points[:, 1] + 0.5
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return tuple(np.where(inside[:, None], points, 0.0).ravel().tolist())
