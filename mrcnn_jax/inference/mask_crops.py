"""Masks as crops: the pixels of one object inside its window, and what lies outside is not in memory.

Windows are (y0, y1, x0, x1) in pixels of the image; h w window.
"""

from typing import NamedTuple

import numpy as np

from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.tiles import Window


class MaskCrop(NamedTuple):
    """The mask of one object, without what lies outside of its window."""

    pixels: np.ndarray
    """[h, w] bool."""
    window: Window
    """The window's place in the image."""

    @property
    def area(self) -> int:
        """Number of the object's pixels."""
        return int(np.count_nonzero(self.pixels))


def intersect(one: Window, other: Window) -> Window:
    """Returns the pixels that two windows share; an empty window has y1 <= y0 or x1 <= x0."""
    return max(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), min(one[3], other[3])


def part_of(crop: MaskCrop, window: Window) -> np.ndarray:
    """Returns the part of a mask in a window that lies inside its own."""
    y0, y1, x0, x1 = window
    top, _, left, _ = crop.window
    if y1 <= y0 or x1 <= x0:
        return np.zeros((0, 0), bool)
    return crop.pixels[y0 - top : y1 - top, x0 - left : x1 - left]


def box_crop(box: np.ndarray, image_hw: ImageHW) -> MaskCrop:
    """Returns all pixels of a box x0, y0, x1, y1, in the place of a mask, for models that have no mask head."""
    height, width = image_hw
    left, top, right, bottom = box.tolist()
    y0, y1, x0, x1 = max(round(top), 0), min(round(bottom), height), max(round(left), 0), min(round(right), width)
    return MaskCrop(np.ones((max(y1 - y0, 0), max(x1 - x0, 0)), bool), (y0, y1, x0, x1))


def unite(crops: list[MaskCrop]) -> MaskCrop:
    """Returns the union of masks, none of which is empty."""
    windows = np.array([crop.window for crop in crops])
    y0, x0 = windows[:, ::2].min(axis=0).tolist()
    y1, x1 = windows[:, 1::2].max(axis=0).tolist()
    pixels = np.zeros((y1 - y0, x1 - x0), bool)
    for crop in crops:
        top, bottom, left, right = crop.window
        pixels[top - y0 : bottom - y0, left - x0 : right - x0] |= crop.pixels
    return MaskCrop(pixels, (y0, y1, x0, x1))


def mask_along(crop: MaskCrop, window: Window, axis: int) -> np.ndarray:
    """Returns, along the other axis of a window, where the mask has a pixel in it, bool [h] or [w]."""
    y0, y1, x0, x1 = window
    result = np.zeros(x1 - x0 if axis == 0 else y1 - y0, bool)
    place = intersect(crop.window, window)
    part = part_of(crop, place)
    if part.size:
        start = place[2] - x0 if axis == 0 else place[0] - y0
        reached = np.any(part, axis=axis, keepdims=True).ravel()
        result[start : start + len(reached)] = reached
    return result


def resize_crop(crop: MaskCrop, old_hw: ImageHW, new_hw: ImageHW) -> MaskCrop:
    """Returns the crop of a mask for the image resized from `old_hw` to `new_hw`: each pixel takes the nearest one."""
    axes = []
    for first, last, old, new in zip(crop.window[::2], crop.window[1::2], old_hw, new_hw, strict=True):
        pixels = np.arange(first * new // old, min(-(-last * new // old), new))
        nearest = (2 * pixels + 1) * old // (2 * new)  # of the old pixels, by the pixels' centres
        inside = (nearest >= first) & (nearest < last)
        axes.append((pixels[inside], nearest[inside] - first))
    (rows, from_rows), (columns, from_columns) = axes
    if not len(rows) or not len(columns):
        return MaskCrop(np.zeros((0, 0), bool), (0, 0, 0, 0))
    window = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    return MaskCrop(crop.pixels[np.ix_(from_rows, from_columns)], window)


def move_crop(crop: MaskCrop, top: int, left: int) -> MaskCrop:
    """Returns the crop of a mask moved down by `top` and to the right by `left` pixels."""
    y0, y1, x0, x1 = crop.window
    return MaskCrop(crop.pixels, (y0 + top, y1 + top, x0 + left, x1 + left))
