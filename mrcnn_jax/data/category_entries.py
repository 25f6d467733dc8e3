"""The categories of annotation files: ids, unique printable names, keypoints and skeletons."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn_jax.categories import Category
from mrcnn_jax.data.coco_ids import IdKey, as_dict, category_of, id_key, number_ids
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.json_values import read_integer
from mrcnn_jax.errors import DataError


def read_category_entries(
    path: Path, entries: list[Any], annotations: list[Any], findings: Findings
) -> tuple[tuple[Category, ...], dict[IdKey, int]]:
    """Returns the categories by ascending id, and the id of each category by the id or name in annotations."""
    entries = [as_dict(entry) if isinstance(entry, dict) else {"name": entry} for entry in entries]
    if entries and not any("id" in entry for entry in entries):
        entries = _number_names(entries, annotations, findings)
    entries = _merge_copies(entries, findings) or _invent_categories(annotations, findings)
    if not entries:
        raise DataError(f"{path} has no categories.")
    keys = [id_key(entry.get("id")) for entry in entries]
    ids = number_ids(keys)
    names = _unique_names(entries, ids, findings)
    numbers_of_keypoints = _count_keypoints(annotations) if any("keypoints" in as_dict(a) for a in annotations) else {}
    categories: list[Category] = []
    by_key: dict[IdKey, int] = {}
    for entry, key, category_id, name in zip(entries, keys, ids, names, strict=True):
        which = f"category {category_id} {name!r}"
        if entry.get("id") != category_id or isinstance(entry.get("id"), bool | float):
            findings.repair("id is not a unique integer", which)
        keypoints = _read_keypoint_names(entry, numbers_of_keypoints.get(key, Counter()), which, findings)
        skeleton = _read_skeleton(entry.get("skeleton"), keypoints, which, findings)
        categories.append(Category(category_id, name, keypoints, skeleton))
        by_key.setdefault(key if key is not None else name, category_id)
    for category in categories:
        by_key.setdefault(category.name, category.id)
    return tuple(sorted(categories, key=lambda category: category.id)), by_key


def _number_names(entries: list[dict[str, Any]], annotations: list[Any], findings: Findings) -> list[dict[str, Any]]:
    """Returns the categories with ids: from 0 on if any object has category 0, else from 1 on."""
    first = 0 if any(id_key(as_dict(entry).get("category_id")) == 0 for entry in annotations) else 1
    findings.repair(f"categories have no ids and are numbered from {first}", str(entries[0].get("name"))[:40])
    return [{"id": number} | entry for number, entry in enumerate(entries, start=first)]


def _merge_copies(entries: list[dict[str, Any]], findings: Findings) -> list[dict[str, Any]]:
    """Returns the entries without those whose id and name occur before."""
    seen = set()
    kept = []
    for entry in entries:
        key = (id_key(entry.get("id")), str(entry.get("name")))
        if key in seen and key[0] is not None:
            findings.repair("category is listed twice", f"category {key[0]} {key[1][:40]!r}")
            continue
        seen.add(key)
        kept.append(entry)
    return kept


def _invent_categories(annotations: list[Any], findings: Findings) -> list[dict[str, Any]]:
    """Returns a category for each id that annotations use, if the file lists no categories."""
    keys = sorted({id_key(category_of(as_dict(entry))) for entry in annotations} - {None}, key=str)
    for key in keys:
        findings.repair("category is not listed and named after its id", str(key))
    return [{"id": key, "name": str(key)} if isinstance(key, int) else {"name": key} for key in keys]


def _unique_names(entries: Sequence[dict[str, Any]], ids: Sequence[int], findings: Findings) -> list[str]:
    """Returns a printable, unique name for each category."""
    names = []
    for entry, category_id in zip(entries, ids, strict=True):
        given = entry.get("name")
        name = _printable(str(given)) if isinstance(given, str | int | float) and not isinstance(given, bool) else ""
        if not name:
            findings.repair("name is missing", f"category {category_id}")
            name = f"category {category_id}"
        elif name != given:
            findings.repair(
                "name is a number, or has spaces or characters that cannot be printed",
                f"category {category_id} {name!r}",
            )
        names.append(name)
    counts = Counter(names)
    unique: list[str] = []
    for entry, category_id, name in zip(entries, ids, names, strict=True):
        if counts[name] > 1:
            parent = _printable(str(entry.get("supercategory") or ""))
            longer = f"{name} ({parent})" if parent else f"{name} {category_id}"
            name = longer if longer not in (*unique, *counts) else f"{name} {category_id}"
            findings.repair("name is used by several categories", f"category {category_id}, now {name!r}")
        unique.append(name)
    return unique


def _printable(name: str) -> str:
    """Returns the name with composed letters, plain single spaces, and without control characters."""
    spaced = " ".join(unicodedata.normalize("NFC", name).split())
    return "".join(char for char in spaced if char.isprintable())[:200].strip()


def _count_keypoints(annotations: list[Any]) -> dict[IdKey, Counter[int]]:
    """Returns how often each number of keypoints occurs among the annotations of each category."""
    counts: dict[IdKey, Counter[int]] = {}
    for entry in map(as_dict, annotations):
        values = entry.get("keypoints")
        if isinstance(values, list) and values:
            number = len(values) if any(isinstance(value, list) for value in values) else len(values) / 3
            if number == int(number):
                counts.setdefault(id_key(entry.get("category_id")), Counter())[int(number)] += 1
    return counts


def _read_keypoint_names(
    entry: dict[str, Any], numbers: Counter[int], which: str, findings: Findings
) -> tuple[str, ...]:
    given = entry.get("keypoints")
    if isinstance(given, list) and given and all(isinstance(name, str | int) for name in given):
        return tuple(_printable(str(name)) or f"keypoint_{index}" for index, name in enumerate(given, start=1))
    if len(numbers) == 1:  # all annotations agree
        (number,) = numbers
        findings.repair("keypoints have no names and are numbered", which)
        return tuple(f"keypoint_{index}" for index in range(1, number + 1))
    if given or numbers:
        findings.repair("keypoints have neither names nor the same number everywhere, and are left out", which)
    return ()


def _read_skeleton(
    given: object, keypoints: tuple[str, ...], which: str, findings: Findings
) -> tuple[tuple[int, int], ...]:
    """Returns the pairs of keypoints, counted from 1, that are drawn as lines. Names are replaced by numbers."""
    pairs = []
    numbers = [
        read_integer(end)
        for pair in (given if isinstance(given, list) else [])
        if isinstance(pair, list)
        for end in pair
    ]
    first = 0 if 0 in numbers else 1
    if first == 0 and keypoints:
        findings.repair("skeleton counts keypoints from 0", which)
    for pair in given if isinstance(given, list) else []:
        ends = [_read_end(end, keypoints, first) for end in pair] if isinstance(pair, list) else []
        if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
            pairs.append((ends[0], ends[1]))
        elif keypoints:
            findings.repair("a line of the skeleton names no two keypoints and is left out", which)
    return tuple(pairs) if keypoints else ()


def _read_end(end: object, keypoints: tuple[str, ...], first: int) -> int | None:
    if isinstance(end, str) and end in keypoints:
        return keypoints.index(end) + 1
    number = read_integer(end)
    return number + 1 - first if number is not None and 1 <= number + 1 - first <= len(keypoints) else None
