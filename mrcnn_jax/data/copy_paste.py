"""Copy-paste (arXiv 2012.07177, the simple form): objects of another image are pasted onto this one before resizing.

The other image keeps its size and is placed at random: along each axis it lies inside this image, or contains it if it
is larger. Its objects replace pixels without blending. Masks are [H, W] bool in pixels of this image.

Objects without a mask are not pasted, since it is not known which pixels are theirs. Below pasted objects, such an
object keeps the smallest box around the visible pixels of its box, which contains all that is visible of it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mrcnn_jax.data.annotations import clip_bbox
from mrcnn_jax.data.bitmaps import decode_mask, encode_mask
from mrcnn_jax.data.dataset import Dataset, ObjectRecord, Record
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.errors import DataError

PASTE_SHARE = 0.5
"""Probability with which each object of the other image is pasted."""

MIN_PIXELS = 10
"""Objects with fewer visible pixels are dropped."""
MIN_SHARE = 0.1
"""Objects with a smaller visible share of their mask are dropped."""


def paste_from(
    dataset: Dataset | Sequence[Record], record: Record, probability: float, rng: np.random.Generator
) -> Record:
    """Returns the record, with objects of a random record of the data set pasted onto it with this probability."""
    if rng.random() >= probability:
        return record
    try:
        source = dataset[int(rng.integers(len(dataset)))]
    except DataError:  # counted and reported when this record is read for its own sample
        return record
    return paste_objects(record, source, rng)


def paste_objects(record: Record, source: Record, rng: np.random.Generator) -> Record:
    """Returns the record with random objects of `source` that have a mask pasted onto it.

    Crowds are neither pasted nor changed.
    """
    image_hw = (record.image.shape[0], record.image.shape[1])
    source_hw = (source.image.shape[0], source.image.shape[1])
    top, left = (_draw_offset(mine - other, rng) for mine, other in zip(image_hw, source_hw, strict=True))
    candidates = [
        (item, item.segmentation) for item in source.objects if not item.is_crowd and item.segmentation is not None
    ]
    is_chosen = rng.random(len(candidates)) < PASTE_SHARE
    covered = np.zeros(image_hw, np.bool_)
    pasted = []
    for item, segmentation in (candidates[index] for index in np.flatnonzero(is_chosen)):
        mask = decode_mask(segmentation, source_hw).astype(np.bool_)
        placed = _place(mask, image_hw, top, left)
        moved = _with_mask(_move_keypoints(item, image_hw, top, left), placed, int(mask.sum()))
        if moved is not None:
            pasted.append(moved)
            covered |= placed
    if not pasted:
        return record
    below = [item if item.is_crowd else _cover(item, covered) for item in record.objects]
    image = np.where(covered[..., None], _place(source.image, image_hw, top, left), record.image)
    return replace(record, image=image, objects=(*[item for item in below if item is not None], *pasted))


def _draw_offset(room: int, rng: np.random.Generator) -> int:
    """Returns a random integer between 0 and `room`, both included; `room` may be negative."""
    return int(rng.integers(min(room, 0), max(room, 0) + 1))


def _place(pixels: np.ndarray, image_hw: ImageHW, top: int, left: int) -> np.ndarray:
    """Returns an image of this size with `pixels` [h, w, ...] at (top, left), cropped to it, and zeros elsewhere."""
    placed = np.zeros((*image_hw, *pixels.shape[2:]), pixels.dtype)
    inner = pixels[max(-top, 0) : image_hw[0] - top, max(-left, 0) : image_hw[1] - left]
    y, x = max(top, 0), max(left, 0)
    placed[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
    return placed


def _with_mask(item: ObjectRecord, mask: np.ndarray, num_pixels: int) -> ObjectRecord | None:
    """Returns the object with this mask and its box and area; None if too little is left of `num_pixels`."""
    visible = int(mask.sum())
    if visible < max(MIN_PIXELS, MIN_SHARE * num_pixels):
        return None
    x0, y0, x1, y1 = _bounds(mask)
    bbox = (float(x0), float(y0), float(x1 - x0), float(y1 - y0))
    return replace(item, bbox=bbox, area=float(visible), segmentation=encode_mask(mask))


def _with_box(item: ObjectRecord, mask: np.ndarray, num_pixels: int) -> ObjectRecord | None:
    """Returns an object without a mask with the part of its box around `mask`, the visible pixels of the box.

    None if too little is left of the box's `num_pixels`, or less than a pixel along one side.
    """
    if int(mask.sum()) < max(MIN_PIXELS, MIN_SHARE * num_pixels):
        return None
    before, visible = clip_bbox(item.bbox, (mask.shape[0], mask.shape[1])), _bounds(mask)
    x0, y0 = (max(sides) for sides in zip(before[:2], visible[:2], strict=True))
    x1, y1 = (min(sides) for sides in zip(before[2:], visible[2:], strict=True))
    if min(x1 - x0, y1 - y0) < 1:  # a strip at the border of pixels that the box only touches
        return None
    return replace(item, bbox=(x0, y0, x1 - x0, y1 - y0), area=(x1 - x0) * (y1 - y0))


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns x0, y0, x1, y1 of a mask that is not empty."""
    (y0, y1), (x0, x1) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
    return x0, y0, x1 + 1, y1 + 1


def _cover(item: ObjectRecord, covered: np.ndarray) -> ObjectRecord | None:
    """Returns the object without its covered pixels; None if too little is left, unchanged if nothing is covered."""
    image_hw = (covered.shape[0], covered.shape[1])
    if item.segmentation is None:
        mask, with_visible = _box_pixels(item, image_hw), _with_box
    else:
        mask, with_visible = decode_mask(item.segmentation, image_hw).astype(np.bool_), _with_mask
    if not (mask & covered).any():
        return item
    points = np.reshape(np.asarray(item.keypoints, np.float64), (-1, 3))
    x, y = (np.clip(np.floor(points[:, axis]).astype(int), 0, image_hw[1 - axis] - 1) for axis in (0, 1))
    points[:, 2] = np.where(covered[y, x], np.minimum(points[:, 2], 1.0), points[:, 2])  # 1: labelled but not visible
    return with_visible(replace(item, keypoints=tuple(points.ravel().tolist())), mask & ~covered, int(mask.sum()))


def _box_pixels(item: ObjectRecord, image_hw: ImageHW) -> np.ndarray:
    """Returns the pixels that the object's box touches, [H, W] bool."""
    x0, y0, x1, y1 = clip_bbox(item.bbox, image_hw)
    pixels = np.zeros(image_hw, np.bool_)
    pixels[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)] = True
    return pixels


def _move_keypoints(item: ObjectRecord, image_hw: ImageHW, top: int, left: int) -> ObjectRecord:
    """Returns the object with its keypoints in pixels of this image; keypoints outside become zeros."""
    points = np.reshape(np.asarray(item.keypoints, np.float64), (-1, 3))
    moved = points + np.array([left, top, 0])
    inside = (points[:, 2] > 0) & (moved[:, :2] >= 0).all(axis=1) & (moved[:, :2] < image_hw[::-1]).all(axis=1)
    return replace(item, keypoints=tuple(np.where(inside[:, None], moved, 0.0).ravel().tolist()))
