"""LabelMe: a JSON file for each image, with shapes; the image lies beside it or is embedded in it."""

import base64
import binascii
import posixpath
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from mrcnn_jax.data.coco_ids import as_dict
from mrcnn_jax.data.formats.dataset_files import DatasetFiles, FileFault, join, stem_of
from mrcnn_jax.data.formats.drawn_shapes import add_groups, ellipse, place_mask, rectangle
from mrcnn_jax.data.formats.format_data import (
    FormatData,
    FormatImage,
    FormatOptions,
    describe_unlabelled,
    find_unlabelled,
    read_size,
)
from mrcnn_jax.data.formats.index_images import read_index_image
from mrcnn_jax.data.formats.split_names import split_of_path
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.json_values import read_integer, read_number


def recognise(files: DatasetFiles) -> str:
    """Returns why the files are LabelMe's, or nothing."""
    found = [name for name in files.sample(".json") if _is_labelme(_load(files, name))]
    return f"{found[0]} has shapes and imagePath" if found else ""


def read(files: DatasetFiles, options: FormatOptions) -> FormatData:
    """Returns the images of all LabelMe files. Splits are folders named train, val or test."""
    images = []
    others = []
    for name in files.with_suffix(".json"):
        try:
            content = files.read_json(name)
        except FileFault as fault:
            images.append(FormatImage(name, split_of_path(name), fault=fault.reason))
            continue
        if _is_labelme(content):
            images.append(_read_image(files, name, content, options))
        else:
            others.append(name)
    notes = describe_unlabelled(find_unlabelled(files, images))
    if others:
        notes.append(f"{len(others)} JSON files are not LabelMe's and are not read ({others[0][:200]!r}).")
    return FormatData(images, notes=notes)


def _load(files: DatasetFiles, name: str) -> Any:
    try:
        return files.read_json(name)
    except FileFault:
        return None


def _is_labelme(content: object) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def _read_image(files: DatasetFiles, name: str, content: Mapping[str, Any], options: FormatOptions) -> FormatImage:
    folder = posixpath.dirname(name)
    image = FormatImage(_find_image(files, name, content), split_of_path(name))
    if image.name not in files and isinstance(content.get("imageData"), str) and content["imageData"]:
        image.embedded = partial(_read_embedded, files, name)
        image.name = join(folder, stem_of(name) + (posixpath.splitext(image.name)[1] or ".jpg"))
    height, width = read_integer(content.get("imageHeight")), read_integer(content.get("imageWidth"))
    if height and width:
        image.image_hw = (height, width)
    elif image.embedded is None:
        image.image_hw = read_size(files, image.name)
    objects = []
    for number, shape in enumerate(content["shapes"], start=1):
        shape = as_dict(shape)
        kind = str(shape.get("shape_type") or "polygon")
        label = shape.get("label")
        if not isinstance(label, str) or not label.strip():
            image.lost.append(("shape has no label", f"shape {number}"))
            continue
        item, reason = _read_shape(shape, kind, image.image_hw, options)
        if item is None:
            image.lost.append((reason, f"{kind[:40]} {number}"))
        else:
            group = shape.get("group_id")
            objects.append((group if isinstance(group, int | str) else None, {"category": label.strip()} | item))
    add_groups(image, objects)
    return image


def _find_image(files: DatasetFiles, name: str, content: Mapping[str, Any]) -> str:
    """Returns the image that the file names, or the one beside it with the same stem."""
    folder, given = posixpath.dirname(name), content.get("imagePath")
    found = files.find_image(folder, given) if isinstance(given, str) and given.strip() else ""
    if found in files:
        return found
    beside = [other for other in files.images_by_stem.get(stem_of(name), ()) if posixpath.dirname(other) == folder]
    return beside[0] if len(beside) == 1 else found or name


def _read_embedded(files: DatasetFiles, name: str) -> bytes:
    """Returns the image in a LabelMe file, which is read anew so that not all images are in memory at once."""
    content = files.read_json(name)
    data = _decode_base64(content.get("imageData")) if isinstance(content, dict) else None
    if data is None:
        raise FileFault("file cannot be opened")
    return data


def _decode_base64(text: object) -> bytes | None:
    try:
        return base64.b64decode(text) or None if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        return None


def _read_shape(
    shape: Mapping[str, Any], kind: str, image_hw: ImageHW | None, options: FormatOptions
) -> tuple[dict[str, Any] | None, str]:
    """Returns the object of a shape, or None and why there is none."""
    given = shape.get("points")
    points = [_read_point(point) for point in given] if isinstance(given, list) else []
    numbers = [side for point in points for side in point]
    if kind == "polygon":
        return {"segmentation": [numbers]}, ""
    if kind in ("line", "linestrip", "point", "points"):
        return None, "shape has no area"
    finite = [side for side in numbers if side is not None]
    if len(finite) < len(numbers) or len(points) < 2:
        return None, "shape has no usable points"
    if kind in ("rectangle", "rotation") and options.rectangles == "masks" and len(points) == 4:
        return {"segmentation": [finite]}, ""
    if kind in ("rectangle", "rotation"):
        xs, ys = finite[::2], finite[1::2]
        return rectangle(min(xs), min(ys), max(xs), max(ys), options.rectangles), ""
    if kind == "circle":
        x, y, edge_x, edge_y = finite[:4]
        radius = float(np.hypot(edge_x - x, edge_y - y))
        return ellipse(x, y, radius, radius), ""
    if kind == "mask" and image_hw is not None:
        data = _decode_base64(shape.get("mask"))
        try:
            part = read_index_image(data or b"")
        except FileFault:
            return None, "mask cannot be decoded"
        code = place_mask(part, round(min(finite[::2])), round(min(finite[1::2])), image_hw)
        return (None, "mask lies outside the image") if code is None else ({"segmentation": code}, "")
    return None, "shape is of an unknown kind"


def _read_point(point: object) -> tuple[float | None, float | None]:
    if not isinstance(point, list) or len(point) < 2:
        return None, None
    return read_number(point[0]), read_number(point[1])
