"""YOLO: a text file for each image, a line `class x y ...` for each object, in shares of the image.

Four numbers after the class are a box (centre, width, height), more a polygon or, if `data.yaml` gives `kpt_shape`, a
box and keypoints. The file lies beside its image, or in `labels` instead of `images`.
"""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from mrcnn_jax.data.formats.dataset_files import DatasetFiles, FileFault, stem_of
from mrcnn_jax.data.formats.format_data import (
    FormatData,
    FormatImage,
    FormatOptions,
    describe_unlabelled,
    read_size,
)
from mrcnn_jax.data.formats.split_names import split_of_path
from mrcnn_jax.data.formats.yolo_settings import YoloSettings, find_settings, read_settings
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.json_values import read_number
from mrcnn_jax.errors import DataError

_DIGITS = 4  # of pixels; text files have six digits of shares, which is coarser in every image above 100 pixels
_MAX_CLASSES = 10_000  # without a list of names
_MOST = 1.5  # shares beyond which numbers are not shares


def recognise(files: DatasetFiles) -> str:
    """Returns why the files are YOLO's, or nothing."""
    labels = [name for name in files.sample(".txt") if stem_of(name) in files.images_by_stem and _is_label(files, name)]
    if not labels:
        return ""
    settings = find_settings(files)
    return f"{labels[0]} has lines `class x y ...` for an image" + (f", {settings} the names" if settings else "")


def read(files: DatasetFiles, options: FormatOptions) -> FormatData:
    """Returns the images of the splits in data.yaml or, without them, all images. Raises DataError.

    An image without a text file has no objects.
    """
    settings = read_settings(files)
    images: list[FormatImage] = []
    without = []
    for name, split in _list_images(files, settings):
        image = FormatImage(name, split)
        images.append(image)
        label = find_label(files, name)
        if label is None:
            without += [name] if name in files else []
            continue
        try:
            lines = files.read_text(label).splitlines()
        except FileFault as fault:
            images[-1] = FormatImage(label, split, fault=fault.reason)
            continue
        if lines:
            image.image_hw = read_size(files, name)
            _read_lines(lines, image, settings)
    labelled = {find_label(files, image.name) for image in images}
    images += [
        FormatImage(name, split_of_path(name), fault="label file has no image")
        for name in files.with_suffix(".txt")
        if name not in labelled and "labels" in name.split("/")
    ]
    if len(without) == len(images) > 0:
        raise DataError(f"{files.path} has no label file for any of {len(images)} images.")
    notes = [
        *settings.notes,
        *describe_unlabelled(without, lacking="label file", become="taken as images without objects"),
    ]
    listed = {image.name for image in images}
    if rest := [name for name in files.images if name not in listed]:
        notes.append(f"{len(rest)} images are in no split of {settings.name} and are left out ({rest[0][:200]!r}).")
    names = settings.names or _number_classes(images)
    fields = {"keypoints": list(settings.keypoints)} if settings.keypoints else {}
    return FormatData(images, [{"name": name} | fields for name in names], notes)


def find_label(files: DatasetFiles, image: str) -> str | None:
    """Returns the text file of an image; None if there is none."""
    folder, stem = posixpath.dirname(image), stem_of(image)
    parts = folder.split("/")
    candidates = []
    for number in reversed([i for i, part in enumerate(parts) if part == "images"]):
        candidates.append(posixpath.join(*parts[:number], "labels", *parts[number + 1 :], f"{stem}.txt"))
    candidates.append(posixpath.join(folder, f"{stem}.txt"))
    candidates.append(posixpath.join(folder, "labels", f"{stem}.txt"))
    return next((name for name in candidates if name in files), None)


def _list_images(files: DatasetFiles, settings: YoloSettings) -> Iterator[tuple[str, str]]:
    """Yields each image with its split; an image of several splits is listed once, in the first."""
    seen = set()
    for split, entries in settings.splits.items():
        for entry in entries:
            if entry.endswith(".txt"):
                names = _read_list(files, entry)
            else:
                names = [name for name in files.images if not entry or name.startswith(f"{entry}/")]
            for name in names:
                if name not in seen:
                    seen.add(name)
                    yield name, split
    if not settings.splits:
        yield from ((name, split_of_path(name)) for name in files.images)


def _read_list(files: DatasetFiles, name: str) -> list[str]:
    lines = [line.strip() for line in files.read_text(name).splitlines()]
    return [files.find_image(posixpath.dirname(name), line) for line in lines if line]


def _is_label(files: DatasetFiles, name: str) -> bool:
    try:
        lines = files.read_text(name).split("\n")
    except FileFault:
        return False
    rows = [_numbers(line) for line in lines[:20] if line.strip()]
    return sum(len(row) >= 5 and None not in row for row in rows) > len(rows) / 2


def _numbers(line: str) -> list[float | None]:
    return [read_number(word) for word in line.replace(",", " ").split()]


def _read_lines(lines: list[str], image: FormatImage, settings: YoloSettings) -> None:
    """Adds the objects of an image to it."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        values = _numbers(line)
        row = [value for value in values if value is not None]
        if len(row) < max(len(values), 5):
            image.lost.append(("line is not a class and at least four numbers", f"line {number}"))
        elif row[0] != int(row[0]) or not 0 <= row[0] < (len(settings.names) or _MAX_CLASSES):
            image.lost.append(("class of the line is not in the list of names", f"line {number}"))
        elif image.image_hw is not None:
            item, reason = _read_object(row[1:], image.image_hw, settings)
            category = settings.names[int(row[0])] if settings.names else int(row[0])
            if item is None:
                image.lost.append((reason, f"line {number}"))
            else:
                image.objects.append({"category": category} | item)
        else:
            image.lost.append(("image of the object cannot be read", f"line {number}"))


def _read_object(row: list[float], image_hw: ImageHW, settings: YoloSettings) -> tuple[dict[str, Any] | None, str]:
    """Returns the object of the numbers after the class, or None and why there is none."""
    height, width = image_hw
    num_points, per_point = settings.keypoint_shape
    points = row[4:] if num_points and len(row) == 4 + num_points * per_point else []
    shares = row if not points else [*row[:4], *(v for i, v in enumerate(points) if i % per_point < 2)]
    if any(abs(share) > _MOST for share in shares):
        return None, "numbers are not shares of the image"
    if points or len(row) == 4:
        x, y, w, h = row[:4]
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        keypoints = _read_points(points, per_point, image_hw) if points else []
        return {"bbox": [round(side, _DIGITS) for side in box]} | ({"keypoints": keypoints} if points else {}), ""
    if num_points:
        return None, "number of keypoints differs from kpt_shape"
    if len(row) % 2 or len(row) < 6:
        return None, "polygon of the line has an odd number of coordinates or fewer than 3 points"
    scaled = [round(share * (height if i % 2 else width), _DIGITS) for i, share in enumerate(row)]
    return {"segmentation": [scaled]}, ""


def _read_points(points: list[float], per_point: int, image_hw: ImageHW) -> list[float]:
    """Returns x, y, visibility of each keypoint; without visibility, 0, 0 is a keypoint that is not annotated."""
    height, width = image_hw
    result: list[float] = []
    for start in range(0, len(points), per_point):
        x, y = points[start : start + 2]
        is_given = x != 0 or y != 0
        visibility = points[start + 2] if per_point == 3 else 2 * is_given
        result += [round(x * width, _DIGITS), round(y * height, _DIGITS), int(visibility)] if visibility else [0, 0, 0]
    return result


def _number_classes(images: list[FormatImage]) -> list[str]:
    """Returns names for the classes 0 to the highest that is used, and puts them into the objects."""
    objects: list[dict[str, Any]] = [item for image in images for item in image.objects]
    count = max((item["category"] for item in objects), default=-1) + 1
    for item in objects:
        item["category"] = _name_of(item)
    return [f"class {number}" for number in range(count)]


def _name_of(item: Mapping[str, Any]) -> str:
    return f"class {item['category']}"
