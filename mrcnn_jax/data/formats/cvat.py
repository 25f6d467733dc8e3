"""CVAT for images 1.1: annotations.xml with the shapes of all images, and the images in a folder beside it."""

import re
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from mrcnn_jax.data.formats.dataset_files import DatasetFiles, join
from mrcnn_jax.data.formats.drawn_shapes import add_groups, box_of_points, ellipse, place_mask, rectangle
from mrcnn_jax.data.formats.format_data import (
    FormatData,
    FormatImage,
    FormatOptions,
    describe_unlabelled,
    find_unlabelled,
)
from mrcnn_jax.data.formats.split_names import split_of_path, split_of_word
from mrcnn_jax.data.formats.xml_files import root_tag, roots, text_of
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.json_values import read_integer, read_number

_NO_AREA = ("polyline", "cuboid", "tag")
_NOT_SHAPES = ("attribute",)


def recognise(files: DatasetFiles) -> str:
    """Returns why the files are CVAT's, or nothing."""
    for name in files.sample(".xml"):
        if root_tag(files, name) == "annotations":
            return f"{name} has CVAT's element annotations"
    return ""


def read(files: DatasetFiles, options: FormatOptions) -> FormatData:
    """Returns the images of all such files; an image's split is its subset."""
    images: list[FormatImage] = []
    labels: dict[str, list[str]] = {}
    notes = []
    for name, root, fault in roots(files):
        if root is None:
            images.append(FormatImage(name, fault=fault))
        elif root.tag == "annotations":
            labels |= _read_labels(root)
            folder = name.rpartition("/")[0]
            images += [_read_image(files, folder, element, labels, options) for element in root.iter("image")]
            if tracks := sum(1 for _ in root.iter("track")):
                notes.append(f"Warning: {tracks} tracks of {name} are left out: export videos as CVAT for images.")
    notes += describe_unlabelled(find_unlabelled(files, images))
    used = {item["category"] for image in images for item in image.objects}
    categories: list[dict[str, Any]] = []
    for name in [*labels, *sorted(used - set(labels))]:
        points = labels.get(name) or _number_points(images, name)
        categories.append({"name": name} | ({"keypoints": points} if points else {}))
    return FormatData(images, categories or None, notes)


def _read_labels(root: Element) -> dict[str, list[str]]:
    """Returns the labels of objects in order, each with the names of its skeleton's keypoints."""
    labels: dict[str, list[str]] = {}
    for element in root.iter("label"):
        name, parent = text_of(element, "name"), text_of(element, "parent")
        if name and not parent:
            labels.setdefault(name, [])
        elif name:
            labels.setdefault(parent, []).append(name)
    return labels


def _number_points(images: list[FormatImage], name: str) -> list[str]:
    """Returns names for the keypoints of a label without a skeleton, all of whose objects have as many."""
    counts = {len(item["keypoints"]) // 3 for image in images for item in image.objects if _has_points(item, name)}
    return [f"keypoint_{number}" for number in range(1, counts.pop() + 1)] if len(counts) == 1 else []


def _has_points(item: dict[str, Any], name: str) -> bool:
    return item["category"] == name and "keypoints" in item


def _read_image(
    files: DatasetFiles, folder: str, element: Element, labels: dict[str, list[str]], options: FormatOptions
) -> FormatImage:
    given, subset = element.get("name", ""), element.get("subset", "")
    if not given:
        return FormatImage(join(folder, "annotations.xml"), fault="image has no name")
    places = (join(folder, f"images/{subset}/{given}"), join(folder, f"images/{given}"))
    name = next((place for place in places if place in files), "") or files.find_image(folder, given)
    height, width = read_integer(element.get("height")), read_integer(element.get("width"))
    own = "" if subset.lower() == "default" else re.sub(r"[^\w-]+", "_", subset, flags=re.ASCII)
    split = split_of_word(subset) or own or split_of_path(given)
    image = FormatImage(name, split, (height, width) if height and width else None)
    objects = []
    for number, shape in enumerate((child for child in element if child.tag not in _NOT_SHAPES), start=1):
        which = f"{shape.tag[:40]} {number}"
        label = shape.get("label", "").strip()
        if not label:
            image.lost.append(("shape has no label", which))
            continue
        item, reason = _read_shape(shape, labels.get(label, []), image.image_hw, options)
        if item is None:
            image.lost.append((reason, which))
        else:
            group = shape.get("group_id")
            objects.append((None if group in (None, "", "0") else group, {"category": label} | item))
    add_groups(image, objects)
    return image


def _read_shape(
    shape: Element, keypoints: list[str], image_hw: ImageHW | None, options: FormatOptions
) -> tuple[dict[str, Any] | None, str]:
    """Returns the object of a shape, or None and why there is none."""
    kind = shape.tag
    if kind == "polygon":
        return {"segmentation": [_read_points(shape)]}, ""
    if kind == "skeleton":
        return _read_skeleton(shape, keypoints)
    if kind == "points":
        flat = _read_points(shape)
        points = [side for x, y in zip(flat[::2], flat[1::2], strict=False) for side in (x or 0, y or 0, 2)]
        return {"keypoints": points, "bbox": box_of_points(points)}, ""
    if kind in _NO_AREA:
        return None, "shape has no area"
    names = {"box": "xtl ytl xbr ybr", "ellipse": "cx cy rx ry", "mask": "left top width height"}.get(kind)
    if names is None:
        return None, "shape is of an unknown kind"
    numbers = [side for key in names.split() if (side := read_number(shape.get(key))) is not None]
    if len(numbers) < 4:
        return None, "shape has no usable points"
    degrees = read_number(shape.get("rotation")) or 0.0
    if kind == "box":
        x0, y0, x1, y1 = numbers
        return rectangle(x0, y0, x1, y1, options.rectangles, degrees), ""
    if kind == "ellipse":
        x, y, radius_x, radius_y = numbers
        return ellipse(x, y, radius_x, radius_y, float(np.radians(degrees))), ""
    return _read_mask(shape.get("rle", ""), numbers, image_hw)


def _read_points(shape: Element) -> list[float | None]:
    """Returns x, y, x, y, ... of text `x,y;x,y`."""
    pairs = [pair.split(",") for pair in shape.get("points", "").split(";") if pair]
    return [read_number(side) for pair in pairs for side in (pair if len(pair) == 2 else ("", ""))]


def _read_skeleton(shape: Element, keypoints: list[str]) -> tuple[dict[str, Any] | None, str]:
    """Returns the object of a skeleton: a keypoint outside the image has visibility 0, an occluded one 1."""
    by_name: dict[str | None, list[float]] = {}
    for element in shape.iter("points"):
        x, y = [*_read_points(element), None, None][:2]
        visibility = 0 if element.get("outside") == "1" else 1 if element.get("occluded") == "1" else 2
        is_given = visibility > 0 and x is not None and y is not None
        by_name[element.get("label")] = [x or 0, y or 0, visibility] if is_given else [0, 0, 0]
    points = [side for name in keypoints for side in by_name.get(name, [0, 0, 0])]
    if not any(points[2::3]):
        return None, "skeleton has no keypoint in the image"
    return {"keypoints": points, "bbox": box_of_points(points)}, ""


def _read_mask(text: str, numbers: list[float], image_hw: ImageHW | None) -> tuple[dict[str, Any] | None, str]:
    """Returns the object of run lengths, row by row from a background, of a rectangle left, top, width, height."""
    left, top, width, height = map(round, numbers)
    runs = [read_integer(run) for run in text.split(",")]
    counts = [run for run in runs if run is not None and run >= 0]
    if image_hw is None:
        return None, "image of the object has no size"
    is_whole = len(counts) == len(runs) and width > 0 and height > 0 and sum(counts) == width * height
    if not is_whole or width * height > 4 * image_hw[0] * image_hw[1]:
        return None, "run lengths do not fit their rectangle"
    values = np.repeat(np.arange(len(counts)) % 2, counts).reshape(height, width)
    code = place_mask(values, left, top, image_hw)
    return (None, "mask lies outside the image") if code is None else ({"segmentation": code}, "")
