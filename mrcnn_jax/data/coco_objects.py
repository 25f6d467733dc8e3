"""Which image and category each annotation of a COCO file belongs to, and what its annotations have in common."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mrcnn_jax.data.coco_ids import IdKey, as_dict, category_of, id_key, number_ids
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.json_values import read_flag
from mrcnn_jax.data.notations import rewrite_annotation
from mrcnn_jax.data.read_object import numbers_of_bbox

Annotations = dict[int, list[dict[str, Any]]]
"""Annotations by image id."""

_MAX_SHOWN = 5
_MAX_CHARS = 40


def assign_annotations(
    entries: list[Any],
    image_ids: Mapping[IdKey, int | None],
    category_ids: Mapping[IdKey, int],
    keypoint_names: Mapping[int, Sequence[str]],
    findings: Findings,
) -> Annotations:
    """Returns the annotations by image id, with unique integer ids and in COCO's notation.

    What belongs nowhere is left out and counted. `keypoint_names` are by category id.
    """
    ids = number_ids(id_key(as_dict(entry).get("id")) for entry in entries)
    only_category = next(iter(category_ids.values())) if len(set(category_ids.values())) == 1 else None
    by_image: Annotations = {}
    unknown_categories: Counter[IdKey] = Counter()
    for entry, annotation_id in zip(entries, ids, strict=True):
        findings.num_objects += 1
        which = f"annotation {annotation_id}"
        if not isinstance(entry, dict):
            findings.leave_out_object("annotation is not a JSON object", which)
            continue
        image_id = image_ids.get(id_key(entry.get("image_id")))
        if image_id is None:
            findings.leave_out_object(
                "its image is not in the file", f"{which}: image {_shorten(entry.get('image_id'))}"
            )
            continue
        which += f" of image {image_id}"
        category_key = id_key(category_of(entry))
        category_id = category_ids.get(category_key, only_category if category_key is None else None)
        if category_id is None:
            if category_key is not None:
                unknown_categories[category_key] += 1
            named = _shorten(category_of(entry))
            findings.leave_out_object("its category is not in the file", f"{which}: category {named}")
            continue
        numbered = {"id": annotation_id, "image_id": image_id, "category_id": category_id}
        for key, number in numbered.items():
            if type(entry.get(key)) is not int or entry[key] != number:
                findings.repair(f"{key} is not {'a unique' if key == 'id' else 'an'} integer", which)
        rewritten, repairs = rewrite_annotation(entry, keypoint_names.get(category_id, ()))
        for reason in repairs:
            findings.repair(reason, which)
        by_image.setdefault(image_id, []).append(rewritten | numbered)
    if unknown_categories:
        listed = _list(dict.fromkeys(category_ids.values()))
        findings.notes.append(
            f"Warning: objects name the categories {_list(unknown_categories)}, but the file lists {listed}. Ids may "
            "be off by one: then the classes of the other objects are wrong, too."
        )
    return by_image


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + "..."


def _list(keys: Iterable[IdKey]) -> str:
    keys = list(keys)
    return ", ".join(map(str, keys[:_MAX_SHOWN])) + ", ..." * (len(keys) > _MAX_SHOWN)


def describe_annotations(by_image: Annotations, has_annotations: bool, *, crowds_are_objects: bool) -> list[str]:
    """Returns a line for each of these: no annotations, many crowds, objects that are listed twice."""
    if not has_annotations:
        return ["The file has no annotations: the split can be predicted, but neither trained on nor scored."]
    annotations = [entry for entries in by_image.values() for entry in entries]
    if not annotations:
        return ["No image has an object: there is nothing to learn from this split, and nothing to score."]
    lines = []
    num_crowds = sum(bool(read_flag(entry.get("iscrowd"))) for entry in annotations)
    if num_crowds and crowds_are_objects:
        lines.append(
            f"{num_crowds} of {len(annotations)} objects are crowds (iscrowd 1) and are taken as ordinary objects."
        )
    elif num_crowds > len(annotations) // 20:
        lines.append(
            f"{num_crowds} of {len(annotations)} objects are crowds (iscrowd 1), which are not learned and not scored. "
            "If they are ordinary objects, as in exports of CVAT's masks, pass --crowds objects."
        )
    boxes = Counter(
        (entry["image_id"], entry["category_id"], *(round(side, 1) for side in bbox))
        for entry in annotations
        if (bbox := numbers_of_bbox(entry.get("bbox"))) is not None
    )
    num_copies = sum(boxes.values()) - len(boxes)
    if num_copies > len(annotations) // 100:
        lines.append(
            f"Warning: {num_copies} of {len(annotations)} objects have the same box and class as another object of "
            "their image. If each object is listed twice, remove the copies."
        )
    return lines
