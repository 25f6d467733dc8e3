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
from mrcnn_jax.data.coco_ids import IdKey, as_dict, category_of, id_key, number_ids, unwrap_scalars
from mrcnn_jax.data.coco_json import describe_other_format, load_coco_json
from mrcnn_jax.data.coco_objects import assign_annotations, describe_annotations
from mrcnn_jax.data.coco_tables import read_table
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.json_values import read_integer
from mrcnn_jax.data.mask_boxes import bbox_iou
from mrcnn_jax.data.read_object import numbers_of_bbox
from mrcnn_jax.errors import DataError

_SAME = 0.7  # IoU of two boxes of one object
_NAME_KEYS = ("file_name", "filename", "fileName", "file", "path", "coco_url")


@dataclass(frozen=True)
class CocoImage:
    """One image of an annotation file with its annotations, whose ids are unique integers; the rest is unchanged."""

    image_id: int
    file_name: str
    image_hw: ImageHW | None  # None if the file does not give it
    annotations: tuple[dict[str, Any], ...]
    void: dict[str, Any] | None = None  # RLE of the pixels that are not evaluated


@dataclass(frozen=True)
class CocoFile:
    """A whole annotation file, with categories in ascending order of id and images in the file's order."""

    path: Path
    sha256: str
    categories: tuple[Category, ...]
    images: tuple[CocoImage, ...]
    has_annotations: bool  # False for a list of images alone, such as that of COCO's test images
    findings: Findings
    is_converted: bool = False  # from another format: the form of boxes and coordinates is certain


def read_coco(path: Path, *, crowds_are_objects: bool = False) -> CocoFile:
    """Reads an annotation file. Raises DataError if it cannot be read as one at all.

    `crowds_are_objects` states what will be made of crowds, for the findings.
    """
    data, content, note = load_coco_json(path)
    notes = [f"{path}: {note}."] if note else []
    sha256 = hashlib.sha256(data).hexdigest()
    return read_coco_content(path, content, sha256, Findings(notes=notes), crowds_are_objects=crowds_are_objects)


def read_coco_content(
    path: Path, content: Mapping[str, Any], sha256: str, findings: Findings, *, crowds_are_objects: bool = False
) -> CocoFile:
    """Returns what `read_coco` does of a file with this content; `path` names it in messages. Raises DataError."""
    entries = {key: _entries(path, content, key) for key in ("images", "annotations", "categories")}
    if entries["images"] is None:
        raise DataError(f"{path} is not a COCO file: it has no list 'images'.{describe_other_format(content)}")
    inner = [] if entries["annotations"] else _inner_annotations(entries["images"])
    if inner:
        findings.notes.append(f"{path}: {len(inner)} annotations are read from inside the entries of images.")
    annotations = entries["annotations"] or inner
    if entries["annotations"] is None and (key := _misnamed_annotations(content)):
        raise DataError(
            f"{path} has no list 'annotations', but a list {key!r} whose entries have an image_id: rename it."
        )
    if annotations and all("segments_info" in as_dict(entry) for entry in annotations):
        raise DataError(
            f"{path} has COCO's panoptic annotations, whose masks are pictures. Convert them to detection annotations "
            "with panopticapi's panoptic2detection_coco_format.py."
        )
    categories, category_ids = read_category_entries(path, entries["categories"] or [], annotations, findings)
    images, image_ids = _read_images(entries["images"], _used_ids(annotations), findings)
    _check_shift(path, {id_key(category_of(as_dict(entry))) for entry in annotations}, category_ids)
    keypoint_names = {category.id: category.keypoints for category in categories}
    by_image = assign_annotations(annotations, image_ids, category_ids, keypoint_names, findings)
    images = _join_copies(images, by_image, findings)
    has_annotations = entries["annotations"] is not None or bool(inner)
    findings.notes += describe_annotations(by_image, has_annotations, crowds_are_objects=crowds_are_objects)
    findings.notes += _describe_copies(images, by_image)
    return CocoFile(
        path,
        sha256,
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
    if isinstance(rows := read_table(entries), list):
        entries = rows
    elif isinstance(entries, dict) and key == "categories" and _are_ids_by_name(entries):
        entries = [{"id": number, "name": name} for name, number in entries.items()]
    elif isinstance(entries, dict):
        # MATLAB writes a list of one as the entry itself; others write an object whose keys are the ids.
        is_lone = "file_name" in entries or "id" in entries
        text = "file_name" if key == "images" else "name"
        entries = [entries] if is_lone else [_with_id(name, entry, text) for name, entry in entries.items()]
    if entries is not None and not isinstance(entries, list):
        raise DataError(f"{path} is not a COCO file: {key!r} is not a list.")
    return None if entries is None else [unwrap_scalars(entry) for entry in entries]


def _are_ids_by_name(entries: Mapping[str, Any]) -> bool:
    """Returns whether an object of categories is {"cat": 1, "dog": 2} and not {"1": "cat"}."""
    numbers = list(map(read_integer, entries.values()))
    return None not in numbers and len(set(numbers)) == len(numbers) > 0


def _with_id(key: str, entry: object, text: str) -> object:
    """Returns the entry with its id; an entry that is text is what the key `text` of an object would be."""
    if isinstance(entry, str):
        return {"id": key, text: entry}
    return {"id": key} | entry if isinstance(entry, dict) else entry


def _inner_annotations(images: list[Any]) -> list[Any]:
    """Returns the annotations that some exports write into the entries of their images."""
    inner: list[Any] = []
    for image in map(as_dict, images):
        entries = image.get("annotations")
        for entry in entries if isinstance(entries, list) else []:
            inner.append(as_dict(entry) | {"image_id": image.get("id", image.get("file_name"))})
    return inner


def _misnamed_annotations(content: Mapping[str, Any]) -> str | None:
    """Returns the key of a list of annotations under another name."""
    for key, entries in content.items():
        if isinstance(entries, list) and entries and all("image_id" in as_dict(entry) for entry in entries):
            return key
    return None


def _check_shift(path: Path, used: set[IdKey], category_ids: Mapping[IdKey, int]) -> None:
    """Raises DataError if the ids that objects use are those of the list plus 1, without exception."""
    listed = {key for key in category_ids if isinstance(key, int)}
    if len(listed) > 1 and used == {key + 1 for key in listed}:
        first = min(listed)
        raise DataError(
            f"{path}: objects count the categories from {first + 1}, but the list does from {first}: classes would be "
            "wrong. Add 1 to the ids of the categories, or subtract 1 from category_id."
        )


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
        names = (str(entry[key]).strip() for key in _NAME_KEYS if type(entry.get(key)) in (str, int))
        file_name = next(filter(None, names), None)
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


def _join_copies(
    images: list[tuple[int, str, ImageHW | None]], by_image: dict[int, list[dict[str, Any]]], findings: Findings
) -> list[tuple[int, str, ImageHW | None]]:
    """Returns the images with one entry for each file, if the file lists an image for each object.

    It does if no image has two objects, and no two objects of a file are the same one. Objects move to the first id
    of their file in `by_image`.
    """
    ids: dict[str, list[int]] = {}
    for image_id, file_name, _ in images:
        ids.setdefault(file_name, []).append(image_id)
    copies = {own[0]: own[1:] for own in ids.values() if len(own) > 1}
    joined = {first: [item for i in (first, *rest) for item in by_image.get(i, ())] for first, rest in copies.items()}
    if not copies or any(len(own) > 1 for own in by_image.values()) or any(map(_has_same, joined.values())):
        return images
    for first, rest in copies.items():
        for image_id in rest:
            by_image.pop(image_id, None)
            findings.repair("image is listed once for each object", f"image {image_id}")
            findings.num_images -= 1
        if joined[first]:
            by_image[first] = [item | {"image_id": first} for item in joined[first]]
    dropped = {image_id for rest in copies.values() for image_id in rest}
    return [image for image in images if image[0] not in dropped]


def _has_same(objects: list[dict[str, Any]]) -> bool:
    """Returns whether two of the boxes are much the same, as those of an image that two people annotated are.

    Objects without a usable box may be the same.
    """
    boxes = [numbers_of_bbox(item.get("bbox")) for item in objects]
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    return any(a is None or b is None or bbox_iou(a, b) > _SAME for a, b in pairs)


def _describe_copies(images: list[tuple[int, str, ImageHW | None]], by_image: Mapping[int, Any]) -> list[str]:
    """Returns a line if objects of one file are listed under several ids, each of which lacks the others' objects."""
    ids: dict[str, list[int]] = {}
    for image_id, file_name, _ in images:
        if by_image.get(image_id):
            ids.setdefault(file_name, []).append(image_id)
    copies = [name for name, own in ids.items() if len(own) > 1]
    if not copies:
        return []
    return [
        f"Warning: {len(copies)} files have objects under several image ids (first: {copies[0][:200]!r}). Each id "
        "becomes an image of its own, in which the objects of the others are background. Give all objects of a file "
        "one image_id."
    ]


def _read_size(entry: dict[str, Any], which: str, findings: Findings) -> ImageHW | None:
    given = (entry.get("height"), entry.get("width"))
    height, width = map(read_integer, given)
    if height is None or width is None or height < 1 or width < 1:
        findings.repair("size is missing and taken from the file", which)
        return None
    if any(type(side) is not int for side in given):
        findings.repair("size is not of integers", which)
    return height, width
