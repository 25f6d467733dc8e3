"""The structure of COCO annotation files: categories, images, and which annotation belongs to which image.

Single annotations are read in read_object.py. A fault of one entry never refuses the file.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn_jax.categories import Category
from mrcnn_jax.data.category_entries import read_category_entries
from mrcnn_jax.data.coco_ids import IdKey, as_dict, id_key, number_ids
from mrcnn_jax.data.coco_json import load_coco_json
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.json_values import read_flag, read_integer
from mrcnn_jax.errors import DataError


@dataclass(frozen=True)
class CocoImage:
    """One image of an annotation file with its annotations, whose ids are unique integers; the rest is unchanged."""

    image_id: int
    file_name: str
    image_hw: ImageHW | None  # None if the file does not give it
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class CocoFile:
    """A whole annotation file, with categories in ascending order of id and images in the file's order."""

    path: Path
    sha256: str
    categories: tuple[Category, ...]
    images: tuple[CocoImage, ...]
    has_annotations: bool  # False for a list of images alone, such as that of COCO's test images
    findings: Findings


def read_coco(path: Path) -> CocoFile:
    """Reads an annotation file. Raises DataError if it cannot be read as one at all."""
    data, content, note = load_coco_json(path)
    findings = Findings(notes=[f"{path}: {note}."] if note else [])
    entries = {key: _entries(path, content, key) for key in ("images", "annotations", "categories")}
    if entries["images"] is None:
        raise DataError(f"{path} is not a COCO file: it has no list 'images'.")
    annotations = entries["annotations"] or []
    categories, category_ids = read_category_entries(path, entries["categories"] or [], annotations, findings)
    images, image_ids = _read_images(entries["images"], _used_ids(annotations), findings)
    by_image = _assign(annotations, image_ids, category_ids, findings)
    has_annotations = entries["annotations"] is not None
    findings.notes += _notes(annotations, has_annotations)
    return CocoFile(
        path,
        hashlib.sha256(data).hexdigest(),
        categories,
        tuple(CocoImage(*image, tuple(by_image.get(image[0], ()))) for image in images),
        has_annotations,
        findings,
    )


def read_categories(path: Path) -> tuple[Category, ...]:
    """Returns the categories of an annotation file by ascending id. Raises DataError if it has none."""
    _, content, _ = load_coco_json(path)
    entries = _entries(path, content, "categories")
    return read_category_entries(path, entries or [], _entries(path, content, "annotations") or [], Findings())[0]


def _entries(path: Path, content: Mapping[str, Any], key: str) -> list[Any] | None:
    """Returns one of the file's lists, which some exports write as an object; None if there is none."""
    entries = content.get(key)
    if isinstance(entries, dict):
        entries = list(entries.values())
    if entries is not None and not isinstance(entries, list):
        raise DataError(f"{path} is not a COCO file: {key!r} is not a list.")
    return entries


def _used_ids(annotations: list[Any]) -> set[IdKey]:
    return {id_key(as_dict(entry).get("image_id")) for entry in annotations}


def _read_images(
    entries: list[Any], used: set[IdKey], findings: Findings
) -> tuple[list[tuple[int, str, ImageHW | None]], dict[IdKey, int | None]]:
    """Returns (id, file name, size) of each image, and the image's id by what annotations call it.

    An id that several images share stands for none of them, if annotations use it.
    """
    usable: list[tuple[IdKey, str, dict[str, Any]]] = []
    listed: dict[tuple[IdKey, str], int] = {}
    for position, entry in enumerate(entries):
        findings.num_images += 1
        entry = as_dict(entry)
        file_name = next(
            (v for k in ("file_name", "path", "coco_url") if isinstance(v := entry.get(k), str) and v), None
        )
        if file_name is None:
            findings.leave_out_image("image has no file_name", f"entry {position}")
            continue
        key = id_key(entry.get("id"))
        if key is not None and (key, file_name) in listed:
            findings.repair("image is listed twice", f"image {key} {file_name[:200]!r}")
            findings.num_images -= 1
            continue
        listed[key, file_name] = position
        usable.append((key, file_name, entry))
    shared = {key for key, count in Counter(key for key, _, _ in usable).items() if count > 1 and key in used}
    for key, file_name, _ in usable:
        if key is not None and key in shared:
            findings.leave_out_image(
                "several images have this id, to which objects refer", f"image {key} {file_name[:200]!r}"
            )
    usable = [image for image in usable if image[0] is None or image[0] not in shared]
    ids = number_ids(key for key, _, _ in usable)
    images, by_key = [], dict[IdKey, int | None]()
    for (key, file_name, entry), image_id in zip(usable, ids, strict=True):
        if key != image_id or type(entry["id"]) is not int:
            findings.repair("id is not a unique integer", f"image {image_id} {file_name[:200]!r}")
        if key is not None:
            by_key.setdefault(key, image_id)
        images.append((image_id, file_name, _read_size(entry, f"image {image_id}", findings)))
    for image_id, file_name, _ in images:  # some scripts refer to images by their file
        by_key.setdefault(file_name, image_id)
    return images, by_key


def _read_size(entry: dict[str, Any], which: str, findings: Findings) -> ImageHW | None:
    given = (entry.get("height"), entry.get("width"))
    height, width = map(read_integer, given)
    if height is None or width is None or height < 1 or width < 1:
        findings.repair("size is missing and taken from the file", which)
        return None
    if any(type(side) is not int for side in given):
        findings.repair("size is not of integers", which)
    return height, width


def _assign(
    entries: list[Any],
    image_ids: Mapping[IdKey, int | None],
    category_ids: Mapping[IdKey, int],
    findings: Findings,
) -> dict[int, list[dict[str, Any]]]:
    """Returns the annotations by image id, with unique integer ids."""
    ids = number_ids(id_key(as_dict(entry).get("id")) for entry in entries)
    only_category = next(iter(set(category_ids.values()))) if len(set(category_ids.values())) == 1 else None
    by_image: dict[int, list[dict[str, Any]]] = {}
    for entry, annotation_id in zip(entries, ids, strict=True):
        findings.num_objects += 1
        which = f"annotation {annotation_id}"
        if not isinstance(entry, dict):
            findings.leave_out_object("annotation is not a JSON object", which)
            continue
        image_id = image_ids.get(id_key(entry.get("image_id")))
        if image_id is None:
            findings.leave_out_object("its image is not in the file", which)
            continue
        which += f" of image {image_id}"
        category_key = id_key(entry.get("category_id"))
        category_id = category_ids.get(category_key, only_category if category_key is None else None)
        if category_id is None:
            findings.leave_out_object("its category is not in the file", which)
            continue
        given = (entry.get("id"), entry.get("image_id"), entry.get("category_id"))
        if given != (annotation_id, image_id, category_id) or any(type(value) is not int for value in given):
            findings.repair("id, image_id or category_id is not a unique integer", which)
        by_image.setdefault(image_id, []).append(
            entry | {"id": annotation_id, "image_id": image_id, "category_id": category_id}
        )
    return by_image


def _notes(annotations: list[Any], has_annotations: bool) -> list[str]:
    if not has_annotations:
        return ["The file has no annotations: the split can be predicted, but neither trained on nor scored."]
    if not annotations:
        return ["No image has an object: there is nothing to learn from this split, and nothing to score."]
    num_crowds = sum(bool(read_flag(as_dict(entry).get("iscrowd"))) for entry in annotations)
    if num_crowds > len(annotations) // 20:
        return [
            f"{num_crowds} of {len(annotations)} objects are crowds (iscrowd 1), which are not learned and not scored. "
            "If they are ordinary objects, as in exports of CVAT's masks, pass --crowds objects."
        ]
    return []
