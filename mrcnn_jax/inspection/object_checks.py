"""Checks of the objects of one split: boxes, masks, crowds, and objects that lie on each other."""

from collections.abc import Callable, Iterator

import numpy as np

from mrcnn_jax.inspection.catalogue import Example, InspectionFinding, Severity, of_total, severity_of_share
from mrcnn_jax.inspection.inspected_split import InspectedSplit
from mrcnn_jax.inspection.object_facts import paired_ious

BOX_FIT = 0.8
"""IoU of a box with its mask's box below which they do not fit, if a side is also off by more than this:"""
BOX_SLACK = 2.0  # pixels
MAX_OUTSIDE = 0.1
"""Share of a box outside its image from which this is a fault."""
MIN_SIDE = 1.0  # pixels
MANY_RECTANGLES = 0.2
"""Share of masks that are rectangles from which this is noted; some objects are rectangles."""
MOSTLY = 0.5
MIN_RECTANGLES = 3
MIN_AREA = 16.0
"""Pixels by which an area has to be wrong, besides a factor of 2: few pixels differ by their rounding."""


def check_objects(split: InspectedSplit, *, has_mask_head: bool) -> Iterator[InspectionFinding]:
    """Yields the findings in the objects of a split, at most one for each check."""
    own = split.objects
    is_crowd, has_mask = own.is_crowd, ~np.isnan(own.mask_areas)
    num_objects = int((~is_crowd).sum())
    if split.images and num_objects == 0:
        text = f"{split.name} has no objects" + (f" but {len(own)} crowds." if len(own) else ".")
        examples = tuple(Example(split.name, index) for index in range(len(split.images)))
        yield InspectionFinding("nothing-to-learn", "error", (split.name,), text, len(split.images), examples)
    yield from _check_crowds(split)
    if num_objects == 0:
        return
    yield from _check_boxes(split)
    yield from _check_masks(split, has_mask_head=has_mask_head)
    yield from _check_rectangles(split, np.flatnonzero(has_mask & ~is_crowd))
    yield from _check_same(split)


def object_finding(
    split: InspectedSplit,
    check: str,
    which: np.ndarray,
    what: str,
    describe: Callable[[int], str] = lambda row: "",
    *,
    severity: Severity | None = None,
) -> Iterator[InspectionFinding]:
    """Yields a finding for the rows `which` of the split's objects, the worst first, unless there is none."""
    if not len(which):
        return
    own = split.objects
    total = int((~own.is_crowd).sum())
    text = f"{of_total(len(which), total, 'objects')} of {split.name} {what}."
    examples = tuple(
        Example(split.name, int(own.image[row]), (int(own.place[row]),), describe(row)) for row in which.tolist()
    )
    severity = severity or severity_of_share(len(which), total)
    yield InspectionFinding(check, severity, (split.name,), text, len(which), examples)


def _check_crowds(split: InspectedSplit) -> Iterator[InspectionFinding]:
    own = split.objects
    which = np.flatnonzero(own.is_crowd)
    if not len(which):
        return
    text = f"{of_total(len(which), len(own), 'objects')} of {split.name} are crowds."
    examples = tuple(Example(split.name, int(own.image[row]), (int(own.place[row]),)) for row in which.tolist())
    severity = severity_of_share(len(which), len(own), few=0.05)
    yield InspectionFinding("crowds", severity, (split.name,), text, len(which), examples)


def _check_boxes(split: InspectedSplit) -> Iterator[InspectionFinding]:
    own = split.objects
    ious = paired_ious(own.boxes, own.mask_boxes)
    is_off = np.abs(own.boxes - own.mask_boxes).max(axis=1) > BOX_SLACK  # False for NaN
    unfit = np.flatnonzero((ious < BOX_FIT) & is_off & ~own.is_crowd)
    unfit = unfit[np.argsort(ious[unfit], kind="stable")]
    yield from object_finding(
        split, "box-mask", unfit, "have a box that does not fit the mask", lambda row: f"IoU {ious[row]:.2f}"
    )
    outside = np.flatnonzero((own.outside > MAX_OUTSIDE) & ~own.is_crowd)
    outside = outside[np.argsort(-own.outside[outside], kind="stable")]
    yield from object_finding(
        split,
        "box-outside",
        outside,
        "extend beyond their image",
        lambda row: f"{100 * own.outside[row]:.0f} % of the box is outside",
    )
    sides = np.minimum(own.boxes[:, 2] - own.boxes[:, 0], own.boxes[:, 3] - own.boxes[:, 1])
    tiny = np.flatnonzero((sides < MIN_SIDE) & ~own.is_crowd)
    tiny = tiny[np.argsort(sides[tiny], kind="stable")]
    yield from object_finding(
        split, "tiny-box", tiny, "are thinner than a pixel", lambda row: f"{sides[row]:.2g} pixels thin"
    )


def _check_masks(split: InspectedSplit, *, has_mask_head: bool) -> Iterator[InspectionFinding]:
    own = split.objects
    missing = np.flatnonzero(np.isnan(own.mask_areas) & ~own.is_crowd)
    has_none = len(missing) == int((~own.is_crowd).sum())
    severity: Severity = "error" if has_none and has_mask_head and split.is_training else "warning"
    yield from object_finding(split, "no-mask", missing, "have no mask", severity=severity if has_mask_head else "note")
    given, measured = own.areas, own.mask_areas
    with np.errstate(invalid="ignore"):
        is_wrong = (given < measured / 2) | (given > measured * 2)
    wrong = np.flatnonzero(is_wrong & (np.abs(given - measured) > MIN_AREA) & ~own.is_crowd)
    yield from object_finding(
        split,
        "area",
        wrong,
        "have another area than their mask",
        lambda row: f"area {given[row]:.0f}, mask {measured[row]:.0f} pixels",
    )


def _check_rectangles(split: InspectedSplit, with_mask: np.ndarray) -> Iterator[InspectionFinding]:
    which = with_mask[split.objects.is_rectangle[with_mask]]
    if len(which) < MIN_RECTANGLES or len(which) < MANY_RECTANGLES * len(with_mask):
        return
    severity = severity_of_share(len(which), len(with_mask), few=MOSTLY)
    yield from object_finding(split, "rectangle-mask", which, "have a mask that fills its box", severity=severity)


def _check_same(split: InspectedSplit) -> Iterator[InspectionFinding]:
    """Yields findings for objects that cover the same pixels, of one class and of two."""
    names = [category.name for category in split.dataset.categories]
    examples: dict[str, list[Example]] = {"repeated-object": [], "contradicting-object": []}
    repeated: set[tuple[int, int]] = set()
    contradicting: set[tuple[int, int]] = set()
    for index, image in enumerate(split.images):
        labels = image.objects.labels
        for first, second in image.objects.same:
            of_both = [names[labels[place] - 1] for place in (first, second)]
            if labels[first] == labels[second]:
                repeated.add((index, second))
                examples["repeated-object"].append(Example(split.name, index, (first, second), of_both[0]))
            else:
                contradicting.add((index, second))
                examples["contradicting-object"].append(
                    Example(split.name, index, (first, second), " and ".join(of_both))
                )
    total = int((~split.objects.is_crowd).sum())
    for check, members, what in (
        ("repeated-object", repeated, "cover the pixels of another one of their class"),
        ("contradicting-object", contradicting, "cover the pixels of one of another class"),
    ):
        if members:
            text = f"{of_total(len(members), total, 'objects')} of {split.name} {what}."
            yield InspectionFinding(check, "warning", (split.name,), text, len(members), tuple(examples[check]))
