"""Objects larger than a tile, from the detections in the whole image at a reduced size.

Tiles see such an object in fragments, whose join may lack parts: a tile inside the object sees none of its outline. A
detection of the reduced image is taken if a side exceeds the tiles' overlap, so that no tile need see it as a whole,
and if open fragments cover at least SUPPORT of it, and more of it than whole detections do. It replaces the fragments
of which it covers at least half. What tiles see as a whole, they see at a higher resolution.

Masks are compared at the reduced size, so that memory depends on that size alone.
"""

import math

import numpy as np

from mrcnn_jax.inference.fragment_joining import AGREE
from mrcnn_jax.inference.mask_crops import MaskCrop
from mrcnn_jax.inference.postprocessing import ImageDetections, concatenate
from mrcnn_jax.inference.tile_merging import Merged

SUPPORT = 0.2
"""Share of an object of the reduced image that fragments of tiles have to cover."""

_MAX_SAMPLES = 10**6  # pixels of a mask that are looked up


def add_large_objects(merged: Merged, reduced: ImageDetections, overlap: int) -> ImageDetections:
    """Returns the merged detections, with those of the reduced image in the place of fragments that they cover.

    Args:
        merged: the detections of tiles.
        reduced: detections in pixels of the reduced image, best first.
        overlap: least overlap of two tiles, in pixels of the image.
    """
    found, is_fragment = merged.detections, merged.is_fragment
    enlarged = reduced.resized(found.image_hw)  # pastes no masks
    is_kept = np.ones(len(found), bool)
    taken = []
    for index in np.flatnonzero((enlarged.boxes[:, 2:] - enlarged.boxes[:, :2]).max(axis=1) > overlap).tolist():
        large = reduced.crop_or_box(index)
        near = np.flatnonzero(is_kept & _is_near(found, enlarged, index))
        shares = np.array([_covered_share(found.crop_or_box(each), found, large, reduced) for each in near.tolist()])
        areas = shares * [found.crop_or_box(each).area for each in near.tolist()]
        by_fragments, by_others = (areas[is_fragment[near] == value].sum() for value in (True, False))
        scale = math.prod(found.image_hw) / math.prod(reduced.image_hw)
        if by_fragments > max(by_others, SUPPORT * large.area * scale):
            is_kept[near[is_fragment[near] & (shares >= AGREE)]] = False
            taken.append(index)
    return concatenate([found.select(is_kept), enlarged.select(np.array(taken, int))])


def _is_near(found: ImageDetections, others: ImageDetections, index: int) -> np.ndarray:
    """Returns which detections are of the same class as one of the others and share pixels with its box, bool [n]."""
    left, top, right, bottom = others.boxes[index]
    x0, y0, x1, y1 = found.boxes.T
    return (x0 < right) & (x1 > left) & (y0 < bottom) & (y1 > top) & (found.labels == others.labels[index])


def _covered_share(crop: MaskCrop, found: ImageDetections, large: MaskCrop, reduced: ImageDetections) -> float:
    """Returns the share of an object's pixels that a mask of the reduced image covers."""
    step = max(1, math.isqrt(crop.pixels.size // _MAX_SAMPLES))
    pixels = crop.pixels[::step, ::step]
    places = []
    for axis, (old, new) in enumerate(zip(found.image_hw, reduced.image_hw, strict=True)):
        first, last = crop.window[2 * axis : 2 * axis + 2]
        places.append(((np.arange(first, last, step) + 0.5) * new / old).astype(int) - large.window[2 * axis])
    rows, columns = places
    row_inside, column_inside = (
        (place >= 0) & (place < side) for place, side in zip(places, large.pixels.shape, strict=True)
    )
    looked_up = large.pixels[np.ix_(rows[row_inside], columns[column_inside])]
    count = np.count_nonzero(pixels)
    return np.count_nonzero(looked_up & pixels[np.ix_(row_inside, column_inside)]) / count if count else 0.0
