"""VGG Image Annotator (VIA) 1 and 2: one JSON file with the regions of many images, or a saved project of VIA 2."""

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mrcnn_jax.data.coco_ids import as_dict
from mrcnn_jax.data.formats.dataset_files import DatasetFiles, FileFault
from mrcnn_jax.data.formats.drawn_shapes import ellipse, rectangle
from mrcnn_jax.data.formats.format_data import (
    FormatData,
    FormatImage,
    FormatOptions,
    describe_unlabelled,
    find_unlabelled,
)
from mrcnn_jax.data.formats.split_names import split_of_file
from mrcnn_jax.data.json_values import read_number
from mrcnn_jax.errors import ConfigError, DataError

_PROJECT = "_via_img_metadata"
_CLASS_NAMES = ("class", "label", "category", "name", "type", "object", "class_name", "category_name")
_NO_AREA = ("point", "polyline", "line")


def recognise(files: DatasetFiles) -> str:
    """Returns why the files are VIA's, or nothing."""
    for name in files.sample(".json"):
        if content := _load(files, name):
            return f"{name} has {'_via_img_metadata' if _PROJECT in content else 'images with filename and regions'}"
    return ""


def read(files: DatasetFiles, options: FormatOptions) -> FormatData:
    """Returns the images of all VIA files; a file's split is that of its name or folder. Raises DataError, ConfigError.

    The class of a region is its only attribute, the one that `options` names, or the one with a usual name.
    """
    found = [(name, content) for name in files.with_suffix(".json") if (content := _load(files, name))]
    if not found:
        newer = [name for name in files.with_suffix(".json") if _is_newer(files, name)]
        hint = f" {newer[0]} is a project of VIA 3: export it as COCO." if newer else ""
        raise DataError(f"{files.path} has no JSON file of VIA with images and regions.{hint}")
    regions = [region for _, content in found for entry in _entries(content) for region in _regions(entry)]
    attribute = _choose_attribute(regions, options.class_attribute)
    images = [
        _read_image(files, name, entry, attribute, options) for name, content in found for entry in _entries(content)
    ]
    notes = describe_unlabelled(find_unlabelled(files, images))
    if attribute:
        notes.append(f"The class of a region is its attribute {attribute!r}.")
    else:
        notes.append(f"Regions have no attributes: all are of the class {options.class_name!r} (--class-name).")
    return FormatData(images, notes=notes)


def _load(files: DatasetFiles, name: str) -> dict[str, Any] | None:
    """Returns the content of a file of VIA; None if it is another."""
    try:
        content = files.read_json(name)
    except FileFault:
        return None
    if not isinstance(content, dict):
        return None
    if isinstance(content.get(_PROJECT), dict):
        return content
    entries = list(content.values())
    is_via = bool(entries) and all(
        isinstance(entry, dict) and {"filename", "regions"} <= set(entry) for entry in entries
    )
    return content if is_via else None


def _is_newer(files: DatasetFiles, name: str) -> bool:
    try:
        content = files.read_json(name)
    except FileFault:
        return False
    return isinstance(content, dict) and {"project", "file", "metadata"} <= set(content)


def _entries(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    entries = content.get(_PROJECT, content)
    return map(as_dict, entries.values())


def _regions(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the regions of an image: a list in VIA 2, an object in VIA 1."""
    regions = entry.get("regions")
    rows = regions.values() if isinstance(regions, dict) else regions if isinstance(regions, list) else []
    return [as_dict(row) for row in rows]


def _attributes(region: Mapping[str, Any]) -> dict[str, str]:
    """Returns the attributes that have a value; of a group of check boxes the value is the only one that is set."""
    found = {}
    for key, value in as_dict(region.get("region_attributes")).items():
        if isinstance(value, dict):
            chosen = [name for name, is_set in value.items() if is_set]
            value = chosen[0] if len(chosen) == 1 else ""
        text = str(value).strip() if isinstance(value, str | int | float) else ""
        if text:
            found[key] = text
    return found


def _choose_attribute(regions: list[dict[str, Any]], wanted: str) -> str:
    """Returns the attribute that contains the class; nothing if no region has any. Raises ConfigError."""
    counts = Counter(key for region in regions for key in _attributes(region))
    names = ", ".join(sorted(counts))
    if wanted:
        if wanted not in counts:
            raise ConfigError(f"--class-attribute {wanted}: no region has it; the attributes are {names or 'none'}.")
        return wanted
    if len(counts) <= 1:
        return next(iter(counts), "")
    usual = [key for key in counts if key.strip().lower() in _CLASS_NAMES]
    if len(usual) == 1:
        return usual[0]
    raise ConfigError(f"Regions have the attributes {names}: name the one with the class, --class-attribute NAME.")


def _read_image(
    files: DatasetFiles, name: str, entry: Mapping[str, Any], attribute: str, options: FormatOptions
) -> FormatImage:
    split = split_of_file(name)
    given = entry.get("filename")
    if not isinstance(given, str) or not given.strip():
        return FormatImage(name, split, fault="image has no filename")
    image = FormatImage(files.find_image(posixpath.dirname(name), given), split)
    for number, region in enumerate(_regions(entry), start=1):
        label = _attributes(region).get(attribute, "") if attribute else options.class_name
        if not label:
            image.lost.append(("region has no class", f"region {number}"))
            continue
        item, reason = _read_region(as_dict(region.get("shape_attributes")), options)
        if item is None:
            image.lost.append((reason, f"region {number}"))
        else:
            image.objects.append({"category": label} | item)
    return image


def _read_region(shape: Mapping[str, Any], options: FormatOptions) -> tuple[dict[str, Any] | None, str]:
    """Returns the object of a region, or None and why there is none."""
    kind = shape.get("name")
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            return None, "region has no usable points"
        return {"segmentation": [[read_number(side) for point in zip(xs, ys, strict=True) for side in point]]}, ""
    if kind in _NO_AREA:
        return None, "region has no area"
    fields = {"rect": "x y width height", "circle": "cx cy r", "ellipse": "cx cy rx ry"}.get(str(kind))
    if fields is None:
        return None, "region is of an unknown kind"
    numbers = [side for key in fields.split() if (side := read_number(shape.get(key))) is not None]
    if len(numbers) < len(fields.split()):
        return None, "region has no usable points"
    if kind == "rect":
        x, y, width, height = numbers
        return rectangle(x, y, x + width, y + height, options.rectangles), ""
    if kind == "circle":
        return ellipse(numbers[0], numbers[1], numbers[2], numbers[2]), ""
    x, y, radius_x, radius_y = numbers
    return ellipse(x, y, radius_x, radius_y, read_number(shape.get("theta")) or 0.0), ""
