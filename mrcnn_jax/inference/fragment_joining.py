"""The union of the fragments in which several tiles have detected one object.

Shapes: n detections of all tiles.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mrcnn_jax.data.tiles import Window
from mrcnn_jax.inference.mask_crops import MaskCrop, mask_along, unite
from mrcnn_jax.inference.postprocessing import ImageDetections

AGREE = 0.5
"""Share of pixels in common from which two masks are of the same object."""

CUT_MARGIN = 0.005
"""Detections that end this close to a side, relative to the tile's longer side, may be cut by it."""


def cut_margins(windows: np.ndarray) -> np.ndarray:
    """Returns CUT_MARGIN for tiles [n, 4] in pixels, [n]; at least 2, since masks end a pixel before or after."""
    y0, y1, x0, x1 = np.asarray(windows, np.float32).T
    return np.maximum(2.0, np.round(CUT_MARGIN * np.maximum(y1 - y0, x1 - x0)))


def join_fragments(
    found: ImageDetections,
    group: Sequence[int],
    agreeing: Mapping[int, Sequence[int]],
    cut: np.ndarray,
    windows: Sequence[Window],
) -> tuple[ImageDetections, bool]:
    """Returns the union of fragments as one detection, and whether it still lacks a part.

    Its score is the mean of the fragments' scores, weighted by their areas. Of each keypoint, the best one is taken.

    Args:
        found: the detections of all tiles.
        group: the fragments; none has an empty mask.
        agreeing: for each detection, those of other tiles that are of the same object.
        cut: [n, 4] bool, the sides y0, y1, x0, x1 of its tile that may cut a detection.
        windows: [n], the tile of each detection.
    """
    parts = found.select(np.array(group))
    crops = {index: parts.crop_or_box(place) for place, index in enumerate(group)}
    union = unite(list(crops.values()))
    others = {index: [other for other in agreeing.get(index, ()) if other in crops] for index in group}
    is_open = any(
        _ends_at(side, crops[index], windows[index], union, [(crops[other], windows[other]) for other in others[index]])
        for index in group
        for side in np.flatnonzero(cut[index]).tolist()
    )
    areas = [crop.area for crop in crops.values()]
    best = parts.keypoints[..., 2].argmax(axis=0)  # [K]
    joined = dataclasses.replace(
        parts.select(np.array([0])),
        boxes=np.concatenate([parts.boxes[:, :2].min(axis=0), parts.boxes[:, 2:].max(axis=0)])[None],
        scores=np.average(parts.scores, weights=areas)[None].astype(np.float32),
        mask_probabilities=np.zeros_like(parts.mask_probabilities[:1]),
        keypoints=parts.keypoints[best, np.arange(len(best))][None],
        crops=(union,) if found.has_masks else None,
    )
    return joined, is_open


def _ends_at(
    side: int, crop: MaskCrop, tile: Window, union: MaskCrop, others: Sequence[tuple[MaskCrop, Window]]
) -> bool:
    """Returns whether nothing shows how most of a fragment's pixels at a side of its tile go on beyond it.

    What shows it is the union, if it goes on there, or another tile that has these pixels and looks beyond the side.
    Pixels at a side are no further from it than the margin.
    """
    depth = int(cut_margins(np.array([tile]))[0])
    step = 1 if side % 2 else -1  # towards the outside
    axis, border = side // 2, tile[side]  # a side of rows is followed along the columns

    def strip(*ends: int) -> Window:
        first, last = sorted(ends)
        y0, y1, x0, x1 = crop.window
        return (first, last, x0, x1) if axis == 0 else (y0, y1, first, last)

    inside = strip(border, border - step * depth)
    here = mask_along(crop, inside, axis)
    known = mask_along(union, strip(border, border + step * depth), axis)
    for other, other_tile in others:
        if step * (other_tile[side] - border) >= depth:
            known |= mask_along(other, inside, axis)
    return bool((here & known).sum() < AGREE * here.sum())
