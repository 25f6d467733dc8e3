"""COCO annotation files and their image folders: structure, ids, categories and the annotations of each image.

Single annotations are checked in annotations.py.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mrcnn_jax.categories import Category
from mrcnn_jax.data.images import ImageError, ImageHW, decode_image, locate_image
from mrcnn_jax.data.source import Source, SourceImage
from mrcnn_jax.errors import DataError

_MAX_ID = 2**63


@dataclass(frozen=True)
class CocoImage:
    """One image of an annotation file with its annotations, unchanged."""

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


def read_coco(path: Path) -> CocoFile:
    """Reads an annotation file and checks every id. Raises DataError if it is not a valid COCO file."""
    data, content = _load(path)
    categories = _read_categories(path, content)
    annotations = _read_annotations(path, content, {category.id for category in categories})
    images = tuple(_read_images(path, content, annotations))
    if annotations:
        image_id, (first, *_) = next(iter(annotations.items()))
        raise DataError(f"{path}: annotation {first['id']} refers to image {image_id}, which is not in the file.")
    return CocoFile(path, hashlib.sha256(data).hexdigest(), categories, images)


def read_categories(path: Path) -> tuple[Category, ...]:
    """Returns the categories of an annotation file by ascending id. Raises DataError if it is not a COCO file."""
    return _read_categories(path, _load(path)[1])


def _load(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Returns the file's bytes and the JSON object in them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the annotation file {path}: {error.strerror}.") from None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: JSON, encoding, numbers with thousands of digits
        raise DataError(f"{path} is not valid JSON: {' '.join(str(error).split())[:200]}.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a COCO file: expected a JSON object with images, annotations and categories.")
    return data, content


def _entries(path: Path, content: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (id, entry) for one of the file's lists. Ids must be integers and unique."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{path} is not a COCO file: it has no list {key!r}.")
    seen = set()
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {position} of {key!r} is not a JSON object.")
        entry_id = _integer(path, entry.get("id"), f"the id of entry {position} of {key!r}")
        if entry_id in seen:
            raise DataError(f"{path}: id {entry_id} occurs twice in {key!r}; ids must be unique.")
        seen.add(entry_id)
        yield entry_id, entry


def _integer(path: Path, value: object, what: str) -> int:
    if type(value) is not int or abs(value) >= _MAX_ID:
        raise DataError(f"{path}: {what} must be an integer, got {str(value)[:40]!r}.")
    return value


def _read_categories(path: Path, content: dict[str, Any]) -> tuple[Category, ...]:
    categories = []
    for category_id, entry in _entries(path, content, "categories"):
        name, keypoints = entry.get("name"), entry.get("keypoints") or []
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise DataError(f"{path}: category {category_id} has no printable name.")
        if not isinstance(keypoints, list) or not all(isinstance(keypoint, str) for keypoint in keypoints):
            raise DataError(f"{path}: the keypoints of category {category_id} are not a list of names.")
        try:
            skeleton = tuple((int(start), int(end)) for start, end in entry.get("skeleton") or [])
        except (TypeError, ValueError):
            raise DataError(f"{path}: the skeleton of category {category_id} is not a list of pairs.") from None
        categories.append(Category(category_id, name, tuple(keypoints), skeleton))
    if not categories:
        raise DataError(f"{path} has no categories.")
    names = [category.name for category in categories]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: two categories are named {name!r}; names must be unique.")
    return tuple(sorted(categories, key=lambda category: category.id))


def _read_annotations(path: Path, content: dict[str, Any], category_ids: set[int]) -> dict[int, list[dict[str, Any]]]:
    """Returns the annotations by image id."""
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation_id, entry in _entries(path, content, "annotations"):
        category_id = entry.get("category_id")
        if type(category_id) is not int or category_id not in category_ids:
            name = str(category_id)[:40]
            raise DataError(f"{path}: annotation {annotation_id} refers to category {name}, which is not in the file.")
        image_id = _integer(path, entry.get("image_id"), f"the image_id of annotation {annotation_id}")
        by_image.setdefault(image_id, []).append(entry)
    return by_image


def _read_images(
    path: Path, content: dict[str, Any], annotations: dict[int, list[dict[str, Any]]]
) -> Iterator[CocoImage]:
    """Yields the images with their annotations, which are removed from `annotations`."""
    for image_id, entry in _entries(path, content, "images"):
        file_name = entry.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise DataError(f"{path}: image {image_id} has no file_name.")
        image_hw = None
        if entry.get("height") is not None or entry.get("width") is not None:
            height = _integer(path, entry.get("height"), f"the height of image {image_id}")
            width = _integer(path, entry.get("width"), f"the width of image {image_id}")
            if height < 1 or width < 1:
                raise DataError(f"{path}: image {image_id} has the invalid size {width}x{height}.")
            image_hw = (height, width)
        yield CocoImage(image_id, file_name, image_hw, tuple(annotations.pop(image_id, ())))


def coco_source(images: str | Path, annotations: str | Path, *, annotated_only: bool = False) -> Source:
    """Returns the images in the folder `images` that the file `annotations` lists. Raises DataError.

    With `annotated_only`, images without objects are left out, or, if categories have keypoints, images without a
    labelled keypoint, as in the paper's training for human pose estimation (section 5).
    """
    images, annotations = Path(images), Path(annotations)
    if not images.is_dir():
        raise DataError(f"The image folder {images} does not exist.")
    root = Path(os.path.realpath(images))
    coco = read_coco(annotations)
    num_listed = len(coco.images)
    if annotated_only:
        of_points = any(category.keypoints for category in coco.categories)
        coco = replace(coco, images=tuple(image for image in coco.images if _is_annotated(image, of_points)))
    if not coco.images:
        raise DataError(f"{annotations} lists no images{' with annotations' * annotated_only}.")

    def load(index: int) -> SourceImage:
        image = coco.images[index]
        try:
            data = locate_image(root, image.file_name).read_bytes()
        except OSError:
            raise ImageError("image cannot be opened") from None
        height, width = decode_image(data, image.image_hw).shape[:2]
        return SourceImage(image.image_id, image.file_name, data, (height, width), image.annotations)

    def describe(index: int) -> str:
        image = coco.images[index]
        return f"image {image.image_id} {image.file_name[:200]!r}"

    left_out = num_listed - len(coco.images)
    fingerprint = _fingerprint(root, coco)
    return Source(annotations.stem, fingerprint, coco.categories, len(coco.images), load, describe, left_out)


def _is_annotated(image: CocoImage, of_points: bool) -> bool:
    if not of_points:
        return bool(image.annotations)
    keypoints = [item.get("keypoints") for item in image.annotations]
    return any(isinstance(values, list) and any(values[2::3]) for values in keypoints)


def _fingerprint(root: Path, coco: CocoFile) -> str:
    """Returns the SHA-256 of the annotation file and of the names and sizes of its images, without their content."""
    digest = hashlib.sha256(coco.sha256.encode())
    for image in coco.images:
        try:
            size = (root / image.file_name).stat().st_size
        except (OSError, ValueError):
            size = -1
        digest.update(f"{image.file_name!a} {size}\n".encode())
    return digest.hexdigest()
