"""Cityscapes in its official folders: leftImg8bit/SPLIT/CITY contains the images, gtFine/SPLIT/CITY their labels.

A label is a 16-bit image of instance ids: 1000 * label id + number for an object, and the label id alone for a group
of objects that the annotators could not separate (treated as a crowd) and for everything that is not counted, such as
sky. If this image is missing, it is drawn from the polygons, as in the official tools.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.data.annotations import COORDINATE_BOUND
from mrcnn_jax.data.images import ImageError, ImageHW, decode_image, locate_image
from mrcnn_jax.data.source import Source, SourceImage
from mrcnn_jax.errors import DataError

VERSION = 2
"""Part of the fingerprint; incremented when the same files yield different annotations."""

INSTANCE_FACTOR = 1000
"""Factor of the label id in the pixel value of an object."""

_NOT_DRAWN = -1
_LABELS = (
    "unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, road, sidewalk, parking, "
    "rail track, building, wall, fence, guard rail, bridge, tunnel, pole, polegroup, traffic light, traffic sign, "
    "vegetation, terrain, sky, person, rider, car, truck, bus, caravan, trailer, train, motorcycle, bicycle"
)
_LABEL_IDS = {name: index for index, name in enumerate(_LABELS.split(", "))} | {"license plate": _NOT_DRAWN}

_CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
CATEGORIES = tuple(Category(_LABEL_IDS[name], name) for name in _CLASSES)
_CLASS_IDS = frozenset(category.id for category in CATEGORIES)
_NUMBERED_IDS = _CLASS_IDS | {_LABEL_IDS["caravan"], _LABEL_IDS["trailer"]}  # labels whose objects are numbered

_NOT_EVALUATED = (
    "unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, parking, rail track, "
    "guard rail, bridge, tunnel, polegroup, caravan, trailer"
)
_VOID = tuple(_LABEL_IDS[name] for name in _NOT_EVALUATED.split(", "))

_IMAGE_END, _IDS_END, _POLYGONS_END = "_leftImg8bit.png", "_gtFine_instanceIds.png", "_gtFine_polygons.json"


def find_splits(root: Path) -> tuple[str, ...]:
    """Returns which of the splits with labels (train, val) exist. Raises DataError if neither does."""
    splits = tuple(split for split in ("train", "val") if (root / "leftImg8bit" / split).is_dir())
    if not splits:
        raise DataError(f"{root} is not a Cityscapes folder: it has no leftImg8bit/train or leftImg8bit/val.")
    return splits


def cityscapes_source(root: Path, split: str) -> Source:
    """Returns the labelled images of a split, numbered from 1 in the order of their names. Raises DataError."""
    folders = [root / kind / split for kind in ("leftImg8bit", "gtFine")]
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"The folder {folder} does not exist. {_hint(split)}")
    images, labels = (Path(os.path.realpath(folder)) for folder in folders)
    names = sorted(path.relative_to(images).as_posix() for path in images.glob(f"*/*{_IMAGE_END}"))
    if not names:
        raise DataError(f"{folders[0]} has no images CITY/*{_IMAGE_END}.")

    def load(index: int) -> SourceImage:
        data = _read(images, names[index], "image")
        height, width = decode_image(data).pixels.shape[:2]
        ids = _read_ids(labels, names[index], (height, width))
        return SourceImage(
            index + 1, names[index], data, (height, width), tuple(_annotate(ids, index)), _find_void(ids)
        )

    def describe(index: int) -> str:
        return f"image {index + 1} {names[index][:200]!r}"

    if not any(_may_have_objects(labels, name) for name in names):
        raise DataError(f"{folders[1]} contains no labelled object of any class. {_hint(split)}")
    return Source(f"cityscapes {split}", _fingerprint(images, labels, names), CATEGORIES, len(names), load, describe)


def _hint(split: str) -> str:
    if split == "test":
        return "The labels of Cityscapes' test images are not published; prepare train and val."
    return "Expected leftImg8bit/SPLIT and gtFine/SPLIT, as in the Cityscapes archives."


def _may_have_objects(labels: Path, name: str) -> bool:
    """Returns whether an image's label has objects or a fault. The published test labels have neither."""
    ids, polygons = _label_names(name)
    try:
        if os.path.lexists(labels / polygons):  # the smaller file
            entries = _parse_polygons(_read(labels, polygons, "label"))["objects"]
            return any(_read_label(entry.get("label"))[0] in _CLASS_IDS for entry in entries)
        return any(_regions(_decode_ids(_read(labels, ids, "label"))))
    except ImageError as error:
        return error.reason != "label is missing"  # other faults are reported when the image is loaded


def _fingerprint(images: Path, labels: Path, names: list[str]) -> str:
    """Returns the SHA-256 of the names and sizes of the images and their labels, without their content."""
    digest = hashlib.sha256(f"cityscapes {VERSION}\n".encode())
    for name in names:
        for path in (images / name, *(labels / label for label in _label_names(name))):
            try:
                size = path.stat().st_size
            except OSError:
                size = -1
            digest.update(f"{path.name!a} {size}\n".encode())
    return digest.hexdigest()


def _label_names(name: str) -> tuple[str, str]:
    """Returns the file names of an image's instance ids and polygons; all names are relative to the split."""
    stem = name.removesuffix(_IMAGE_END)
    return stem + _IDS_END, stem + _POLYGONS_END


def _read(root: Path, name: str, what: str) -> bytes:
    try:
        return locate_image(root, name).read_bytes()
    except OSError:
        raise ImageError(f"{what} cannot be opened") from None
    except ImageError as error:
        raise ImageError(re.sub("^image", what, error.reason)) from None


def _read_ids(labels: Path, name: str, image_hw: ImageHW) -> np.ndarray:
    """Returns the instance ids, integers [H, W], of an image of size `image_hw`. Raises ImageError."""
    ids_name, polygons_name = _label_names(name)
    if not os.path.lexists(labels / ids_name):
        content = _parse_polygons(_read(labels, polygons_name, "label"))
        _check_size((content["imgHeight"], content["imgWidth"]), image_hw)
        return _draw_ids(content["objects"], image_hw)
    ids = _decode_ids(_read(labels, ids_name, "label"))
    _check_size(ids.shape, image_hw)
    return ids


def _check_size(label_hw: tuple[int, ...], image_hw: ImageHW) -> None:
    if label_hw != image_hw:
        raise ImageError("size of the label differs from the image")


def _decode_ids(data: bytes) -> np.ndarray:
    import cv2

    try:
        ids = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        ids = None
    if ids is None:
        raise ImageError("label cannot be decoded")
    if ids.dtype != np.uint16 or ids.ndim != 2:
        raise ImageError("label is not a grey image of 16 bits")
    return np.asarray(ids)


def _parse_polygons(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise ImageError("label is not valid JSON") from None
    entries = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ImageError("label has no list of objects")
    if not all(type(content.get(key)) is int for key in ("imgHeight", "imgWidth")):
        raise ImageError("label has no imgHeight and imgWidth")
    return content


def _draw_ids(entries: list[dict[str, Any]], image_hw: ImageHW) -> np.ndarray:
    """Returns the instance ids int32 [H, W] of a polygon file's objects, drawn in order from back to front."""
    from PIL import Image, ImageDraw

    image = Image.new("I", image_hw[::-1], _LABEL_IDS["unlabeled"])
    drawer = ImageDraw.Draw(image)
    counts: Counter[int] = Counter()
    for entry in entries:
        if entry.get("deleted"):
            continue
        label_id, is_group = _read_label(entry.get("label"))
        if label_id == _NOT_DRAWN:
            continue
        value = label_id
        if label_id in _NUMBERED_IDS and not is_group:
            value = label_id * INSTANCE_FACTOR + counts[label_id]
            counts[label_id] += 1
            if counts[label_id] > INSTANCE_FACTOR:
                raise ImageError("more than 1000 objects of a class")
        drawer.polygon(_read_polygon(entry.get("polygon"), COORDINATE_BOUND * max(image_hw)), fill=value)
    return np.asarray(image, np.int32)


def _read_label(label: Any) -> tuple[int, bool]:
    """Returns the label id, and whether the label is that of a group, such as cargroup."""
    if isinstance(label, str):
        if label in _LABEL_IDS:  # polegroup is a label of its own
            return _LABEL_IDS[label], False
        if label.endswith("group") and label.removesuffix("group") in _LABEL_IDS:
            return _LABEL_IDS[label.removesuffix("group")], True
    raise ImageError("label names an unknown class")


def _read_polygon(polygon: Any, bound: int) -> list[tuple[float, float]]:
    if not isinstance(polygon, list) or len(polygon) < 3:
        raise ImageError("polygon has fewer than 3 points")
    for point in polygon:
        if not isinstance(point, list) or len(point) != 2:
            raise ImageError("point of a polygon is not x, y")
        if not all(type(value) in (int, float) and -bound <= value <= bound for value in point):
            raise ImageError("polygon coordinate is not finite or far outside")
    return [(x, y) for x, y in polygon]


def _regions(ids: np.ndarray) -> Iterator[tuple[int, int, bool]]:
    """Yields (value, label id, whether it is a crowd) for each value in ids [H, W] of the eight classes, ascending."""
    for value in np.flatnonzero(np.bincount(ids.ravel(order="K"))).tolist():
        is_crowd = value < INSTANCE_FACTOR
        label_id = value if is_crowd else value // INSTANCE_FACTOR
        if label_id in _CLASS_IDS:
            yield value, label_id, is_crowd


def _find_void(ids: np.ndarray) -> dict[str, Any] | None:
    """Returns the RLE of the pixels whose label is not evaluated, of ids [H, W]; None if there are none.

    As in the official evaluation, numbered objects of such classes (a caravan's 29000) do not belong to them.
    """
    from pycocotools import mask as coco_mask

    void = np.isin(ids, _VOID)
    if not void.any():
        return None
    code = coco_mask.encode(np.asfortranarray(void.view(np.uint8)))
    return {"size": list(ids.shape), "counts": code["counts"].decode()}


def _annotate(ids: np.ndarray, index: int) -> Iterator[dict[str, Any]]:
    """Yields the COCO annotations of the image at position `index`, with ids index * 65536 + pixel value."""
    from pycocotools import mask as coco_mask

    ids = np.asfortranarray(ids)
    for value, label_id, is_crowd in _regions(ids):
        code = coco_mask.encode((ids == value).view(np.uint8))
        yield {
            "id": index * 2**16 + value,
            "image_id": index + 1,
            "category_id": label_id,
            "bbox": coco_mask.toBbox(code).tolist(),
            "area": int(coco_mask.area(code)),
            "iscrowd": int(is_crowd),
            "segmentation": {"size": list(ids.shape), "counts": code["counts"].decode()},
        }
