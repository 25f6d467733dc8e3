"""Checks of the categories of each split, and of what preparation left out."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mrcnn_jax.inspection.catalogue import Example, InspectionFinding, Severity, of_total, severity_of_share
from mrcnn_jax.inspection.inspected_split import InspectedSplit

FEW_OBJECTS = 10
"""Fewer training objects of a class are noted."""
IMBALANCE = 100
"""Ratio of the numbers of objects of two classes from which they are very unequal."""
_MAX_NAMED = 8


def list_names(names: Sequence[str]) -> str:
    """Returns the names with commas between, at most eight of them."""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def class_key(name: str) -> str:
    """Returns what two names have to share to be matched: all but capital letters, as in evaluation."""
    return name.casefold()


def class_examples(split: InspectedSplit, labels: Iterable[int]) -> tuple[Example, ...]:
    """Returns the largest object of each class that has one, named by its class; classes count from 1."""
    own = split.objects
    rows = [int(found[0]) for label in labels if len(found := split.find_objects(label))]
    return tuple(
        Example(
            split.name,
            int(own.image[row]),
            (int(own.place[row]),),
            split.dataset.categories[int(own.labels[row]) - 1].name,
        )
        for row in rows
    )


def check_classes(splits: Sequence[InspectedSplit]) -> Iterator[InspectionFinding]:
    """Yields the findings in the categories of all splits."""
    for split in splits:
        names = [category.name for category in split.dataset.categories]
        used = np.flatnonzero(split.class_counts).tolist()
        if len(used) == 1:
            listed = f", of {len(names)} listed" if len(names) > 1 else ""
            text = f"All objects of {split.name} are of the class {names[used[0]]}{listed}."
            severity: Severity = "warning" if len(names) > 1 else "note"
            yield InspectionFinding("one-class", severity, (split.name,), text, 1, class_examples(split, [used[0] + 1]))
        if alike := _find_alike(names):
            text = f"Names of {split.name} are almost equal: {'; '.join(' / '.join(group) for group in alike)}."
            labels = [names.index(name) + 1 for group in alike for name in group]
            yield InspectionFinding(
                "alike-names", "warning", (split.name,), text, len(alike), class_examples(split, labels)
            )
        if split.is_training:
            yield from _check_balance(split, names)
    yield from _check_unused(splits)


def _find_alike(names: Sequence[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        letters = re.sub(r"[\W_]+", "", name.casefold())
        groups[letters.removesuffix("s") or letters].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _check_balance(split: InspectedSplit, names: Sequence[str]) -> Iterator[InspectionFinding]:
    counts = split.class_counts
    used = np.flatnonzero(counts)
    if len(used) < 2:
        return
    rare = [index for index in used[np.argsort(counts[used], kind="stable")].tolist() if counts[index] < FEW_OBJECTS]
    if rare:
        named = list_names([f"{names[index]} {counts[index]}" for index in rare])
        text = f"{len(rare)} classes of {split.name} have fewer than {FEW_OBJECTS} objects: {named}."
        examples = class_examples(split, [index + 1 for index in rare])
        yield InspectionFinding("rare-class", "warning", (split.name,), text, len(rare), examples)
    most, least = used[np.argmax(counts[used])], used[np.argmin(counts[used])]
    if counts[most] >= IMBALANCE * counts[least]:
        ratio = counts[most] / counts[least]
        text = (
            f"{split.name} has {ratio:,.0f} times as many objects of {names[most]} ({counts[most]:,}) as of "
            f"{names[least]} ({counts[least]:,})."
        )
        examples = class_examples(split, [int(least) + 1, int(most) + 1])
        yield InspectionFinding("imbalance", "warning", (split.name,), text, 2, examples)


def _check_unused(splits: Sequence[InspectedSplit]) -> Iterator[InspectionFinding]:
    counts: dict[str, int] = defaultdict(int)
    shown: dict[str, str] = {}
    for split in splits:
        for category, count in zip(split.dataset.categories, split.class_counts, strict=True):
            counts[class_key(category.name)] += int(count)
            shown.setdefault(class_key(category.name), category.name)
    unused = [shown[key] for key, count in counts.items() if count == 0]
    if unused and len(unused) < len(counts):
        text = f"{len(unused)} of {len(counts)} classes have no object: {list_names(unused)}."
        yield InspectionFinding("unused-class", "note", tuple(split.name for split in splits), text, len(unused))


def check_preparation(split: InspectedSplit) -> Iterator[InspectionFinding]:
    """Yields findings for what preparation left out and repaired, from the counts that it wrote."""
    notes = split.preparation
    for kind in ("images", "objects"):
        reasons = _read_counts(notes.get(kind))
        count, total = sum(reasons.values()), notes.get(f"num_{kind}", 0)
        if count:
            text = f"{of_total(count, total, kind)} of {split.name} were left out: {_list_reasons(reasons)}."
            yield InspectionFinding("left-out", severity_of_share(count, total), (split.name,), text, count)
    repaired = _read_counts(notes.get("repaired"))
    if repaired:
        count = sum(repaired.values())
        text = f"{count:,} repairs in {split.name}: {_list_reasons(repaired)}."
        yield InspectionFinding("repaired", "note", (split.name,), text, count)


def _read_counts(reasons: object) -> dict[str, int]:
    if not isinstance(reasons, dict):
        return {}
    counts = {reason: entry.get("count") for reason, entry in reasons.items() if isinstance(entry, dict)}
    return {str(reason): count for reason, count in counts.items() if isinstance(count, int) and count > 0}


def _list_reasons(reasons: dict[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    return "; ".join(f"{count:,} x {reason}" for reason, count in ordered)
