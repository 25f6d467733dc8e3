"""Ids of an annotation file, which exports also write as text, floats or UUIDs, leave out, or repeat."""

from collections.abc import Iterable
from typing import Any

from mrcnn_jax.data.json_values import read_integer

IdKey = int | str | None
"""What an id means: an integer, or a text that is none; None for a missing id."""


def id_key(value: object) -> IdKey:
    """Returns what an id means: 7, 7.0 and "7" are the same id."""
    if isinstance(value, bool):
        return None
    number = read_integer(value)
    if number is not None:
        return number
    text = str(value) if isinstance(value, int) else value  # 2**63 or more
    return text.strip()[:200] or None if isinstance(text, str) else None


def number_ids(keys: Iterable[IdKey]) -> list[int]:
    """Returns unique integers for ids: those that are integers stay, at their first place; the others follow on."""
    keys = list(keys)
    next_free = max((key for key in keys if isinstance(key, int)), default=0) + 1
    next_free = max(next_free, 1)
    numbers = []
    seen: set[int] = set()
    for key in keys:
        if not isinstance(key, int) or key in seen:
            key, next_free = next_free, next_free + 1
        seen.add(key)
        numbers.append(key)
    return numbers


def category_of(annotation: dict[str, Any]) -> object:
    """Returns the id or name of an annotation's category as the file gives it."""
    keys = ("category_id", "category_name", "category", "label")
    return next((annotation[key] for key in keys if annotation.get(key) is not None), None)


_SCALARS = ("id", "image_id", "category_id", "file_name", "width", "height", "name", "iscrowd", "area", "supercategory")


def as_dict(entry: object) -> dict[str, Any]:
    """Returns the entry if it is a JSON object, else an empty one."""
    return entry if isinstance(entry, dict) else {}


def unwrap_scalars(entry: object) -> object:
    """Returns the entry with numbers and texts that are lists of one, as R writes them, out of their lists.

    The same is done to those that MongoDB writes as {"$oid": "..."} or {"$numberInt": "7"}.
    """
    if not isinstance(entry, dict) or type(entry.get("id", entry.get("image_id"))) in (int, str):
        return entry
    return entry | {key: _unwrap(entry[key]) for key in _SCALARS if key in entry}


def _unwrap(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)).startswith("$"):
        return next(iter(value.values()))
    return value
