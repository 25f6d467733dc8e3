"""What the reader of a format finds, and its conversion to the entries of COCO files, one for each split."""

import hashlib
import json
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mrcnn_jax.data.coco_file import CocoFile, read_coco_content
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.formats.dataset_files import DatasetFiles, FileFault, MemberFolder, ReadBytes, stem_of
from mrcnn_jax.data.images import ImageError, ImageHW, read_header
from mrcnn_jax.errors import DataError

Rectangles = Literal["boxes", "masks"]
"""What rectangles are: objects with a box but without a mask, or objects whose mask is the rectangle."""


@dataclass(frozen=True)
class FormatOptions:
    """What a user chooses about how a format is read."""

    class_attribute: str = ""  # the attribute that contains the class, for formats with several
    class_name: str = "object"  # of objects in formats without classes
    rectangles: Rectangles = "boxes"


@dataclass
class FormatImage:
    """An image and its objects: COCO annotations with "category", a class name, in place of ids and image."""

    name: str  # in the data set, or as the annotation file gives it if there is no such file
    split: str = ""  # empty if the format names none
    image_hw: ImageHW | None = None  # None if the format does not give it
    objects: list[dict[str, Any]] = field(default_factory=list)
    void: dict[str, Any] | None = None  # RLE of the pixels that are not evaluated
    embedded: ReadBytes | None = None  # reads the image, if it is in the annotation file alone
    lost: list[tuple[str, str]] = field(default_factory=list)  # reason and description of each object left out
    repairs: list[tuple[str, str]] = field(default_factory=list)  # reason and description
    fault: str = ""  # why there is no image; `name` is that of the annotation file


@dataclass
class FormatData:
    """All images of a data set."""

    images: list[FormatImage]
    categories: list[dict[str, Any]] | None = None  # COCO's, without ids; None for the classes of the objects, sorted
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FormatSplit:
    """One split: an annotation file in COCO's structure, and the folder of its images."""

    name: str  # empty if the data set has no splits
    coco: CocoFile
    folder: MemberFolder


def convert_splits(files: DatasetFiles, data: FormatData) -> list[FormatSplit]:
    """Returns the splits in the order of their names, all with the same categories. Raises DataError."""
    if not any(not image.fault for image in data.images):
        faults = sorted({image.fault for image in data.images})
        raise DataError(f"{files.path} has no annotated image. {'; '.join((*faults, *data.notes))}".rstrip())
    names = sorted({image.split for image in data.images if not image.fault})
    notes = list(data.notes)
    if "" in names and len(names) > 1:
        count = sum(not image.split for image in data.images)
        notes.append(f"{count} images that belong to no split are added to the split train.")
        data.images = [replace(image, split=image.split or "train") for image in data.images]
        names = sorted({image.split for image in data.images if not image.fault})
    data.images = [image if image.split in names else replace(image, split=names[0]) for image in data.images]
    categories = data.categories or _categories_of(data.images)
    splits = []
    for name in names:
        images = [image for image in data.images if image.split == name]
        splits.append(_convert(files, name, images, categories, notes if name == names[0] else []))
    return splits


def _categories_of(images: Iterable[FormatImage]) -> list[dict[str, Any]]:
    used = {item["category"] for image in images for item in image.objects if item["category"]}
    return [{"name": name} for name in sorted(used)]


def _convert(
    files: DatasetFiles, name: str, images: list[FormatImage], categories: list[dict[str, Any]], notes: list[str]
) -> FormatSplit:
    """Returns a split whose images and objects are numbered from 1 in the order of the images' names."""
    findings = Findings(notes=list(notes))
    kept = sorted((image for image in images if not image.fault), key=lambda image: image.name)
    for image in images:
        if image.fault:
            findings.num_images += 1
            findings.leave_out_image(image.fault, repr(image.name[:200]))
    base = posixpath.commonpath([posixpath.dirname(image.name) for image in kept])
    ids = {category["name"]: number for number, category in enumerate(categories, start=1)}
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": ids[category["name"]]} | category for category in categories],
    }
    for image_id, image in enumerate(kept, start=1):
        short = posixpath.relpath(image.name, base) if base else image.name
        height, width = image.image_hw or _size_of(files, image) or (None, None)
        entry = {"id": image_id, "file_name": short} | ({"height": height, "width": width} if height else {})
        content["images"].append(entry)
        which = f"image {image_id} {short[:200]!r}"
        for reason, what in image.lost:
            findings.num_objects += 1
            findings.leave_out_object(reason, f"{what} of {which}")
        for reason, what in image.repairs:
            findings.repair(reason, f"{what} of {which}" if what else which)
        for item in image.objects:
            if item["category"] not in ids:
                findings.num_objects += 1
                findings.leave_out_object("object has no class that the data set lists", f"an object of {which}")
                continue
            numbered = {"id": len(content["annotations"]) + 1, "image_id": image_id}
            item = {"category_id": ids[item["category"]]} | {k: v for k, v in item.items() if k != "category"}
            content["annotations"].append(numbered | item)
    if not categories:
        raise DataError(f"{files.path} has no object with a class. {' '.join(findings.describe())}".rstrip())
    text = json.dumps([content, [image.void for image in kept]], sort_keys=True)
    coco = read_coco_content(files.path, content, hashlib.sha256(text.encode()).hexdigest(), findings)
    voids = {number: image.void for number, image in enumerate(kept, start=1)}
    with_void = tuple(replace(image, void=voids[image.image_id]) for image in coco.images)
    embedded = {image.name: image.embedded for image in kept if image.embedded is not None}
    return FormatSplit(name, replace(coco, images=with_void, is_converted=True), MemberFolder(files, base, embedded))


def _size_of(files: DatasetFiles, image: FormatImage) -> ImageHW | None:
    if image.embedded is None:
        return read_size(files, image.name)
    try:
        return header_size(image.embedded())
    except FileFault:
        return None


def read_size(files: DatasetFiles, name: str) -> ImageHW | None:
    """Returns the size of an upright image; None if it is missing or damaged, which preparation counts."""
    try:
        return header_size(files.read(name)) if name in files else None
    except FileFault:
        return None


def header_size(data: bytes) -> ImageHW | None:
    """Returns the size of an upright encoded image; None if it is damaged."""
    try:
        return read_header(data).image_hw
    except ImageError:
        return None


def find_unlabelled(files: DatasetFiles, images: Iterable[FormatImage]) -> set[str]:
    """Returns the images of the data set that no annotation names, and that no unreadable annotation file may mean."""
    images = list(images)
    damaged = {stem_of(image.name) for image in images if image.fault}
    named = {image.name for image in images}
    return {name for name in files.images if name not in named and stem_of(name) not in damaged}


def describe_unlabelled(names: Iterable[str], *, lacking: str = "annotation", become: str = "left out") -> list[str]:
    """Returns a line that counts images without annotations, if there are any."""
    listed = sorted(names)
    if not listed:
        return []
    shown = ", ".join(repr(name[:200]) for name in listed[:3]) + ", ..." * (len(listed) > 3)
    return [f"{len(listed)} images have no {lacking} and are {become} ({shown})."]
