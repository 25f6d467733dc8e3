"""Anchor sizes and ratios by k-means over boxes, with the IoU of the best anchor of an image as the similarity.

The anchors of one shape stand on a grid whose step is the stride of their level. The overlap of two boxes of given
sizes only grows as their centres approach in x and in y, so the best anchor of a shape is the one on the grid point
nearest to the box's centre. Shapes: K boxes, L levels, R ratios. Boxes are x0, y0, x1, y1 at the network's input.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrcnn_jax.data.box_facts import box_sides

MIN_STRIDES = 2.0
"""Smallest anchor of a level in strides: smaller ones leave gaps between the anchors of neighbouring cells."""
COVERED_IOU = 0.5
"""An object is covered if an anchor has at least this IoU with it."""
WORTH_A_RATIO = 0.02
"""Least gain in mean IoU for which a further ratio is kept: each one costs a third more proposals to rank."""
MAX_RATIOS = 3
_MAX_ROUNDS = 30
_MAX_BOXES = 5000


class Anchors(NamedTuple):
    """Anchors and how well they cover the boxes."""

    sizes: tuple[float, ...]  # [L] ascending
    ratios: tuple[float, ...]  # [R] ascending, height / width
    coverage: float  # share of boxes with an anchor of COVERED_IOU or more
    mean_iou: float


def cluster_anchors(boxes: np.ndarray, strides: Sequence[int], *, ratios: Sequence[float] = ()) -> Anchors:
    """Returns one size for each level and 1 to MAX_RATIOS ratios for boxes [K, 4]; the given ratios are kept.

    Raises ValueError without boxes.
    """
    if not len(boxes):
        raise ValueError("Expected at least one box, got none.")
    chosen = boxes[np.unique(np.linspace(0, len(boxes) - 1, min(len(boxes), _MAX_BOXES)).astype(np.int64))]
    if ratios:
        return measure_anchors(boxes, _refine(chosen, strides, ratios, keep_ratios=True).sizes, ratios, strides)
    best = _refine(chosen, strides, _first_ratios(chosen, 1), keep_ratios=False)
    for count in range(2, MAX_RATIOS + 1):
        more = _refine(chosen, strides, _first_ratios(chosen, count), keep_ratios=False)
        if more.mean_iou >= best.mean_iou + WORTH_A_RATIO:
            best = more
    return measure_anchors(boxes, best.sizes, best.ratios, strides)


def measure_anchors(
    boxes: np.ndarray, sizes: Sequence[float], ratios: Sequence[float], strides: Sequence[int]
) -> Anchors:
    """Returns these anchors with their coverage of the boxes [K, 4]; a coverage of 0 without boxes."""
    if not len(boxes):
        return Anchors(tuple(sizes), tuple(ratios), 0.0, 0.0)
    best = anchor_ious(boxes, sizes, ratios, strides).reshape(len(boxes), -1).max(axis=1)
    return Anchors(tuple(sizes), tuple(ratios), float((best >= COVERED_IOU).mean()), float(best.mean()))


def anchor_ious(
    boxes: np.ndarray, sizes: Sequence[float], ratios: Sequence[float], strides: Sequence[int]
) -> np.ndarray:
    """Returns the IoU [K, L, R] of each box with the nearest anchor of each shape, on a grid that starts at (0, 0)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = box_sides(boxes)[:, None, None]  # [K, 1, 1, 2]
    steps = np.asarray(strides, np.float64)
    offsets = np.abs(centres[:, None] - np.round(centres[:, None] / steps[:, None]) * steps[:, None])  # [K, L, 2]
    roots = np.sqrt(np.asarray(ratios, np.float64))
    shapes = np.asarray(sizes, np.float64)[:, None, None] * np.stack([1 / roots, roots], axis=-1)  # [L, R, 2]
    overlap = (sides + shapes) / 2 - offsets[:, :, None]
    shared = np.clip(overlap, 0, np.minimum(sides, shapes)).prod(axis=-1)
    union = sides.prod(axis=-1) + shapes.prod(axis=-1) - shared
    return np.asarray(shared / np.maximum(union, 1e-9))


def _first_ratios(boxes: np.ndarray, count: int) -> tuple[float, ...]:
    """Returns quantiles of the boxes' ratios."""
    sides = np.maximum(box_sides(boxes), 1e-3)
    shares = (np.arange(count) + 0.5) / count
    return tuple(np.exp(np.quantile(np.log(sides[:, 1] / sides[:, 0]), shares)).tolist())


def _refine(boxes: np.ndarray, strides: Sequence[int], ratios: Sequence[float], *, keep_ratios: bool) -> Anchors:
    """Returns the best anchors of a few rounds of k-means, rounded to whole pixels and to hundredths of ratios."""
    sides = np.maximum(box_sides(boxes), 1e-3)
    log_sizes, log_ratios = np.log(sides.prod(axis=1)) / 2, np.log(sides[:, 1] / sides[:, 0])
    shares = (np.arange(len(strides)) + 0.5) / len(strides)
    sizes = _round_sizes(np.exp(np.quantile(log_sizes, shares)), strides)
    ratios = tuple(ratios) if keep_ratios else _round_ratios(ratios)
    best = measure_anchors(boxes, sizes, ratios, strides)
    for _ in range(_MAX_ROUNDS):
        ious = anchor_ious(boxes, sizes, ratios, strides)
        level, ratio = np.divmod(ious.reshape(len(boxes), -1).argmax(axis=1), len(ratios))
        before = sizes, ratios
        sizes = _round_sizes(np.exp(_means(log_sizes, level, np.log(sizes))), strides)
        if not keep_ratios:
            ratios = _round_ratios(np.exp(_means(log_ratios, ratio, np.log(ratios))))
        if (sizes, ratios) == before:
            break
        found = measure_anchors(boxes, sizes, ratios, strides)
        best = max(best, found, key=lambda anchors: anchors.mean_iou)
    return best


def _means(values: np.ndarray, cluster: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Returns the mean of the values of each cluster; the old one for an empty cluster."""
    return np.array([values[cluster == index].mean() if (cluster == index).any() else o for index, o in enumerate(old)])


def _round_sizes(sizes: np.ndarray, strides: Sequence[int]) -> tuple[float, ...]:
    smallest = np.asarray(strides, np.float64) * MIN_STRIDES
    return tuple(float(size) for size in np.maximum(np.sort(np.round(sizes)), smallest))


def _round_ratios(ratios: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(sorted({max(round(float(ratio), 2), 0.01) for ratio in ratios}))
