"""Copy-paste (arXiv 2012.07177, the simple form): objects of another image are pasted onto this one before resizing.

The other image keeps its size and is placed at random: along each axis it lies inside this image, or contains it if it
is larger. Its objects replace pixels without blending. Masks are [H, W] bool in pixels of this image.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

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
    """Returns the record with random objects of `source` pasted onto it. Crowds are neither pasted nor changed."""
    image_hw = (record.image.shape[0], record.image.shape[1])
    source_hw = (source.image.shape[0], source.image.shape[1])
    top, left = (_draw_offset(mine - other, rng) for mine, other in zip(image_hw, source_hw, strict=True))
    candidates = [item for item in source.objects if not item.is_crowd]
    is_chosen = rng.random(len(candidates)) < PASTE_SHARE
    covered = np.zeros(image_hw, np.bool_)
    pasted = []
    for item in (item for item, chosen in zip(candidates, is_chosen, strict=True) if chosen):
        mask = decode_mask(item.segmentation, source_hw).astype(np.bool_)
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
    (y0, y1), (x0, x1) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
    bbox = (float(x0), float(y0), float(x1 + 1 - x0), float(y1 + 1 - y0))
    return replace(item, bbox=bbox, area=float(visible), segmentation=encode_mask(mask))


def _cover(item: ObjectRecord, covered: np.ndarray) -> ObjectRecord | None:
    """Returns the object without its covered pixels; None if too little is left, unchanged if nothing is covered."""
    image_hw = (covered.shape[0], covered.shape[1])
    mask = decode_mask(item.segmentation, image_hw).astype(np.bool_)
    if not (mask & covered).any():
        return item
    points = np.reshape(np.asarray(item.keypoints, np.float64), (-1, 3))
    x, y = (np.clip(np.floor(points[:, axis]).astype(int), 0, image_hw[1 - axis] - 1) for axis in (0, 1))
    points[:, 2] = np.where(covered[y, x], np.minimum(points[:, 2], 1.0), points[:, 2])  # 1: labelled but not visible
    return _with_mask(replace(item, keypoints=tuple(points.ravel().tolist())), mask & ~covered, int(mask.sum()))


def _move_keypoints(item: ObjectRecord, image_hw: ImageHW, top: int, left: int) -> ObjectRecord:
    """Returns the object with its keypoints in pixels of this image; keypoints outside become zeros."""
    points = np.reshape(np.asarray(item.keypoints, np.float64), (-1, 3))
    moved = points + np.array([left, top, 0])
    inside = (points[:, 2] > 0) & (moved[:, :2] >= 0).all(axis=1) & (moved[:, :2] < image_hw[::-1]).all(axis=1)
    return replace(item, keypoints=tuple(np.where(inside[:, None], moved, 0.0).ravel().tolist()))
