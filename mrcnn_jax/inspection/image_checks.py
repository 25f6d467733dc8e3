"""Checks of the images of one split."""

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from mrcnn_jax.inspection.catalogue import Example, InspectionFinding, Severity, of_total, severity_of_share
from mrcnn_jax.inspection.image_facts import ImageFacts
from mrcnn_jax.inspection.inspected_split import InspectedSplit
from mrcnn_jax.inspection.similar_images import MIN_CONTRAST

LONG = 4.0
"""Ratio of sides from which an image is very long."""


def check_images(split: InspectedSplit) -> Iterator[InspectionFinding]:
    """Yields the findings in the images of a split, at most one for each check."""
    if not split.images:
        yield InspectionFinding("empty-split", "error", (split.name,), f"{split.name} has no images.")
        return
    total = len(split.images)
    readable = [index for index, image in enumerate(split.images) if not image.fault]
    faulty = [index for index, image in enumerate(split.images) if image.fault]
    yield from _finding(split, "unreadable-image", "error", faulty, "cannot be read", lambda image: image.fault)
    blank = [index for index in readable if split.images[index].contrast < MIN_CONTRAST]
    yield from _finding(split, "blank-image", "warning", blank, "show nothing: their grey values are all the same")
    bare = np.flatnonzero(split.counts == 0).tolist()
    if len(bare) < total:  # otherwise nothing-to-learn is an error
        severity: Severity = severity_of_share(len(bare), total, few=0.5)
        yield from _finding(split, "no-objects", severity, bare, "have no objects")
    rotated = [index for index in readable if split.images[index].orientation != 1]
    yield from _finding(
        split, "rotated-image", "note", rotated, "are turned upright", lambda image: f"orientation {image.orientation}"
    )
    framed = [index for index in readable if split.images[index].num_frames > 1]
    yield from _finding(
        split,
        "several-frames",
        "note",
        framed,
        "have several frames, of which the first is read",
        lambda image: f"{image.num_frames} frames",
    )
    long = [
        index for index in range(total) if max(split.images[index].image_hw) >= LONG * min(split.images[index].image_hw)
    ]
    yield from _finding(split, "long-image", "warning", long, f"have a side at least {LONG:g} times the other", _size)
    yield from _check_depth(split, readable)


def _size(image: ImageFacts) -> str:
    return f"{image.image_hw[1]} x {image.image_hw[0]} pixels"


def _finding(
    split: InspectedSplit,
    check: str,
    severity: Severity,
    which: list[int],
    what: str,
    describe: Callable[[ImageFacts], str] = lambda image: "",
) -> Iterator[InspectionFinding]:
    if which:
        text = f"{of_total(len(which), len(split.images), 'images')} of {split.name} {what}."
        examples = tuple(Example(split.name, index, text=describe(split.images[index])) for index in which)
        yield InspectionFinding(check, severity, (split.name,), text, len(which), examples)


def _check_depth(split: InspectedSplit, readable: list[int]) -> Iterator[InspectionFinding]:
    by_range: dict[str, list[int]] = defaultdict(list)
    for index in readable:
        by_range[split.images[index].value_range].append(index)
    deep = [index for index in readable if split.images[index].is_deep]
    yield from _finding(
        split,
        "deep-image",
        "note",
        deep,
        f"have more than 8 bits a channel and are scaled by --depth {split.dataset.depth}",
        lambda image: f"scaled from {image.value_range}",
    )
    if len(by_range) > 1:
        rare_first = sorted(by_range, key=lambda name: len(by_range[name]))
        counts = ", ".join(f"{len(by_range[name])} from {name}" for name in reversed(rare_first))
        examples = tuple(Example(split.name, by_range[name][0], text=f"scaled from {name}") for name in rare_first)
        text = f"The images of {split.name} are scaled to 0..255 from different ranges: {counts}."
        yield InspectionFinding("mixed-depth", "warning", (split.name,), text, len(deep), examples)
