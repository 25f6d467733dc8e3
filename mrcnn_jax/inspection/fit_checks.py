"""Checks of one split against the settings with which it is to be used: anchors, sizes, canvases, slots."""

from collections.abc import Iterator

import numpy as np

from mrcnn_jax.config import Config
from mrcnn_jax.inspection.anchor_coverage import best_anchor_ious
from mrcnn_jax.inspection.catalogue import Example, InspectionFinding, of_total
from mrcnn_jax.inspection.inspected_split import InspectedSplit
from mrcnn_jax.inspection.object_checks import object_finding
from mrcnn_jax.inspection.object_facts import box_areas

MIN_FILLED = 0.65
"""Mean share of a canvas that images should fill."""
MAX_RESIZE = 2.0


def check_fit(split: InspectedSplit, config: Config) -> Iterator[InspectionFinding]:
    """Yields the findings of a split with these settings, at most one for each check."""
    if not split.images:
        return
    if split.is_training:
        yield from _check_anchors(split, config)
    yield from _check_small(split, config)
    yield from _check_counts(split, config)
    yield from _check_canvases(split)


def anchor_ious(split: InspectedSplit, config: Config) -> np.ndarray:
    """Returns the best IoU of any anchor with each object of the split, [K]; crowds are included."""
    return best_anchor_ious(split.network_boxes, split.network_hw[split.objects.image], config.model)


def network_sides(split: InspectedSplit) -> np.ndarray:
    """Returns the mean side of each object at the network's input, the root of its box's area in pixels, [K]."""
    return np.sqrt(box_areas(split.network_boxes))


def finest_stride(config: Config) -> int:
    """Returns the pixels between two cells of the finest features from which RoIs are pooled."""
    return config.model.roi_strides[0]


def describe_size(split: InspectedSplit, row: int) -> str:
    """Returns the size of an object at the network's input, such as `6 x 40 pixels at the input`."""
    x0, y0, x1, y1 = split.network_boxes[row]
    return f"{x1 - x0:.3g} x {y1 - y0:.3g} pixels at the input"


def _check_anchors(split: InspectedSplit, config: Config) -> Iterator[InspectionFinding]:
    ious = anchor_ious(split, config)
    is_object = ~split.objects.is_crowd
    low, high = config.targets.rpn_background_iou, config.targets.rpn_foreground_iou
    which = np.flatnonzero((ious < low) & is_object)
    which = which[np.argsort(ious[which], kind="stable")]
    yield from object_finding(
        split,
        "no-anchor",
        which,
        f"have no anchor with an IoU of {low:g}",
        lambda row: f"best IoU {ious[row]:.2f}, {describe_size(split, row)}",
    )
    if not is_object.any():
        return
    median = float(np.median(ious[is_object]))
    num_weak = int(((ious < high) & is_object).sum())
    if median < (low + high) / 2:
        text = (
            f"The best anchor of the median object of {split.name} has an IoU of {median:.2f}; "
            f"{of_total(num_weak, int(is_object.sum()), 'objects')} have no anchor with an IoU of {high:g}."
        )
        own = split.objects
        weakest = np.flatnonzero((ious < median) & is_object)
        typical = weakest[np.argsort(-ious[weakest], kind="stable")]
        examples = tuple(
            Example(split.name, int(own.image[row]), (int(own.place[row]),), f"best IoU {ious[row]:.2f}")
            for row in typical.tolist()
        )
        yield InspectionFinding("weak-anchors", "warning", (split.name,), text, num_weak, examples)


def _check_small(split: InspectedSplit, config: Config) -> Iterator[InspectionFinding]:
    sides, stride = network_sides(split), finest_stride(config)
    which = np.flatnonzero((sides < stride) & ~split.objects.is_crowd)
    which = which[np.argsort(sides[which], kind="stable")]
    yield from object_finding(
        split,
        "too-small",
        which,
        f"are smaller than a cell of the features, {stride} x {stride} pixels",
        lambda row: describe_size(split, row),
    )


def _check_counts(split: InspectedSplit, config: Config) -> Iterator[InspectionFinding]:
    counts = split.counts
    check = "too-many-objects" if split.is_training else "too-many-to-detect"
    limit = config.data.max_objects if split.is_training else config.test.max_detections
    which = np.flatnonzero(counts > limit)
    if not len(which):
        return
    which = which[np.argsort(-counts[which], kind="stable")]
    num_beyond = int(np.maximum(counts - limit, 0).sum())
    option = "--data.max-objects" if split.is_training else "--test.max-detections"
    text = (
        f"{of_total(len(which), len(counts), 'images')} of {split.name} have more than {limit} objects, so that "
        f"{num_beyond} of {counts.sum():,} objects are lost; {option} {counts.max()} keeps all."
    )
    examples = tuple(Example(split.name, index, text=f"{counts[index]} objects") for index in which.tolist())
    yield InspectionFinding(check, "warning", (split.name,), text, len(which), examples)


def _check_canvases(split: InspectedSplit) -> Iterator[InspectionFinding]:
    filled = filled_shares(split)
    mean = float(filled.mean())
    if mean < MIN_FILLED:
        text = (
            f"The images of {split.name} fill {100 * mean:.0f} % of their canvases; the rest is computed for nothing."
        )
        worst = np.argsort(filled, kind="stable").tolist()
        examples = tuple(_canvas_example(split, index) for index in worst)
        yield InspectionFinding("padding", "warning", (split.name,), text, len(filled), examples[:1])
    scale = np.sqrt(split.network_hw.prod(axis=1) / split.dataset.sizes.prod(axis=1))
    for name, is_far in (("enlarged", scale > MAX_RESIZE), ("shrunk", scale < 1 / MAX_RESIZE)):
        if (count := int(is_far.sum())) > 0.5 * len(scale):
            factor = float(np.median(scale))
            factor = factor if name == "enlarged" else 1 / factor
            text = f"{of_total(count, len(scale), 'images')} of {split.name} are {name}, by {factor:.1f} in the median."
            examples = tuple(_canvas_example(split, int(index)) for index in np.argsort(-np.abs(np.log(scale)))[:1])
            yield InspectionFinding("resize", "note", (split.name,), text, count, examples)


def _canvas_example(split: InspectedSplit, index: int) -> Example:
    (height, width), canvas = split.network_hw[index], split.canvas_hw[index]
    return Example(split.name, index, text=f"{width} x {height} on a canvas of {canvas[1]} x {canvas[0]}")


def filled_shares(split: InspectedSplit) -> np.ndarray:
    """Returns the share of its canvas that each image fills, [N]."""
    return np.asarray(split.network_hw.prod(axis=1) / np.maximum(split.canvas_hw.prod(axis=1), 1))
