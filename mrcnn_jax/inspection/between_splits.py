"""Checks of classes, depth, masks and sizes between splits: the first one is compared with each of the others."""

import difflib
from collections.abc import Iterator, Sequence

import numpy as np

from mrcnn_jax.inspection.catalogue import Example, InspectionFinding, Severity, of_total
from mrcnn_jax.inspection.class_checks import class_examples, class_key, list_names
from mrcnn_jax.inspection.fit_checks import network_sides
from mrcnn_jax.inspection.inspected_split import InspectedSplit

MAX_SCALE = 2.0
"""Ratio of the median sizes of objects from which splits differ."""
MIN_OBJECTS = 20
"""Fewer objects give no median worth comparing."""
MIN_IMAGES = 20
"""Fewer images give no AP worth comparing."""


def check_between(splits: Sequence[InspectedSplit]) -> Iterator[InspectionFinding]:
    """Yields the findings between splits; those without images are only compared by their categories."""
    first = splits[0]
    for other in splits[1:]:
        yield from _check_names(first, other)
        yield from _check_missing(first, other)
        if first.images and other.images:
            yield from _check_depth(first, other)
            yield from _check_masks(first, other)
            yield from _check_scale(first, other)
        if 0 < len(other.images) < MIN_IMAGES and not other.is_training:
            text = f"{other.name} has {len(other.images)} images."
            yield InspectionFinding("split-size", "note", (other.name,), text, len(other.images))


def _names(split: InspectedSplit) -> dict[str, str]:
    return {class_key(category.name): category.name for category in split.dataset.categories}


def _check_names(first: InspectedSplit, other: InspectedSplit) -> Iterator[InspectionFinding]:
    ours, theirs = _names(first), _names(other)
    only_ours = [name for key, name in ours.items() if key not in theirs]
    only_theirs = [name for key, name in theirs.items() if key not in ours]
    if not only_ours and not only_theirs:
        return
    parts = [
        f"only in {split.name}: {list_names(names)}"
        for split, names in ((first, only_ours), (other, only_theirs))
        if names
    ]
    hints = [
        f"{name} may be {close[0]}"
        for name in only_theirs
        if (close := difflib.get_close_matches(name, only_ours, n=1))
    ]
    parts += [list_names(hints)] * bool(hints)
    # A list that is a part of the other one is a choice; two that differ are a slip.
    severity: Severity = "error" if (only_ours and only_theirs) else "warning"
    count = len(only_ours) + len(only_theirs)
    examples = _examples(first, only_ours) + _examples(other, only_theirs)
    yield InspectionFinding("split-class-names", severity, (first.name, other.name), _sentence(parts), count, examples)


def _examples(split: InspectedSplit, names: Sequence[str]) -> tuple[Example, ...]:
    listed = [category.name for category in split.dataset.categories]
    return class_examples(split, [listed.index(name) + 1 for name in names])


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _check_missing(first: InspectedSplit, other: InspectedSplit) -> Iterator[InspectionFinding]:
    ours, theirs = _counts(first), _counts(other)
    shared = [key for key in ours if key in theirs]
    if not sum(ours.values()) or not sum(theirs.values()):
        return  # found as a split without objects
    names = _names(first)
    missing = [names[key] for key in shared if ours[key] and not theirs[key]]
    unlearned = [names[key] for key in shared if theirs[key] and not ours[key]]
    parts = [
        f"{other.name} has no object of {list_names(missing)}" if missing else "",
        f"{first.name} has no object of {list_names(unlearned)}, which {other.name} has" if unlearned else "",
    ]
    if missing or unlearned:
        text = "; ".join(part for part in parts if part) + "."
        their_names = _names(other)
        examples = _examples(first, missing) + _examples(other, [their_names[class_key(name)] for name in unlearned])
        count = len(missing) + len(unlearned)
        yield InspectionFinding("split-class-missing", "warning", (first.name, other.name), text, count, examples)


def _counts(split: InspectedSplit) -> dict[str, int]:
    keys = [class_key(category.name) for category in split.dataset.categories]
    return dict(zip(keys, split.class_counts.tolist(), strict=True))


def _check_depth(first: InspectedSplit, other: InspectedSplit) -> Iterator[InspectionFinding]:
    both = (first.name, other.name)
    if first.dataset.depth != other.dataset.depth:
        text = (
            f"{first.name} was prepared with --depth {first.dataset.depth}, {other.name} with --depth "
            f"{other.dataset.depth}; training refuses them together."
        )
        yield InspectionFinding("split-depth", "error", both, text)
        return
    deep = [[index for index, image in enumerate(split.images) if image.is_deep] for split in (first, other)]
    if bool(deep[0]) != bool(deep[1]):
        split, which = (first, deep[0]) if deep[0] else (other, deep[1])
        rest = other if split is first else first
        text = (
            f"{of_total(len(which), len(split.images), 'images')} of {split.name} have more than 8 bits a channel, and "
            f"none of {rest.name}: brightness may differ."
        )
        examples = tuple(Example(split.name, index) for index in which)
        yield InspectionFinding("split-depth", "warning", both, text, len(which), examples)


def _check_masks(first: InspectedSplit, other: InspectedSplit) -> Iterator[InspectionFinding]:
    has_masks = [
        bool(np.any(~np.isnan(split.objects.mask_areas) & ~split.objects.is_crowd)) for split in (first, other)
    ]
    has_objects = [bool(split.counts.sum()) for split in (first, other)]
    if all(has_objects) and has_masks[0] != has_masks[1]:
        without, with_masks = (other, first) if has_masks[0] else (first, other)
        text = f"No object of {without.name} has a mask; {with_masks.name} has masks."
        own = without.objects
        examples = tuple(Example(without.name, int(own.image[row]), (int(own.place[row]),)) for row in range(len(own)))
        yield InspectionFinding("split-masks", "warning", (first.name, other.name), text, len(own), examples)


def _check_scale(first: InspectedSplit, other: InspectedSplit) -> Iterator[InspectionFinding]:
    medians, examples = [], []
    for split in (first, other):
        own = split.objects
        rows = np.flatnonzero(~own.is_crowd)
        if len(rows) < MIN_OBJECTS:
            return
        sides = network_sides(split)
        medians.append(float(np.median(sides[rows])))
        median_row = rows[np.argsort(sides[rows], kind="stable")[len(rows) // 2]]
        place = (int(own.place[median_row]),)
        examples.append(
            Example(split.name, int(own.image[median_row]), place, f"{medians[-1]:.0f} pixels at the input")
        )
    if max(medians) > MAX_SCALE * max(min(medians), 1e-6):
        text = (
            f"The median object measures {medians[0]:.0f} pixels at the network's input in {first.name}, "
            f"{medians[1]:.0f} in {other.name}."
        )
        yield InspectionFinding("split-scale", "warning", (first.name, other.name), text, 0, tuple(examples))
