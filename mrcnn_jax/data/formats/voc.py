"""Pascal VOC: SegmentationObject and SegmentationClass number the objects and their classes; Annotations has boxes."""

import posixpath
from collections.abc import Iterable

import numpy as np

from mrcnn_jax.data.formats.dataset_files import DatasetFiles, FileFault, stem_of
from mrcnn_jax.data.formats.drawn_shapes import encode_region
from mrcnn_jax.data.formats.format_data import (
    FormatData,
    FormatImage,
    FormatOptions,
    describe_unlabelled,
    find_unlabelled,
)
from mrcnn_jax.data.formats.index_images import read_index_image
from mrcnn_jax.data.formats.split_names import split_of_path, split_of_word
from mrcnn_jax.data.formats.voc_boxes import read_boxes
from mrcnn_jax.data.formats.xml_files import root_tag
from mrcnn_jax.errors import DataError

_NAMES = (
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person, "
    "pottedplant, sheep, sofa, train, tvmonitor"
)
CLASSES = tuple(_NAMES.split(", "))
"""The classes of the official data sets, whose numbers count from 1."""

VOID = 255
"""Number of the pixels that are not evaluated."""

_OBJECT_FOLDERS = ("SegmentationObject", "SegmentationObjectPNG")
_CLASS_FOLDERS = ("SegmentationClass", "SegmentationClassPNG")
_NAME_FILES = ("labelmap.txt", "class_names.txt", "labels.txt")
_BACKGROUND = ("_background_", "background", "__background__")


def recognise(files: DatasetFiles) -> str:
    """Returns why the files are Pascal VOC's, or nothing."""
    if masks := _in_folders(files, _OBJECT_FOLDERS):
        return f"{posixpath.dirname(masks[0])} has masks"
    for name in files.sample(".xml"):
        if root_tag(files, name) == "annotation":
            return f"{name} has VOC's element annotation"
    return ""


def read(files: DatasetFiles, options: FormatOptions) -> FormatData:
    """Returns the images with masks if there are any, else those with boxes. Raises DataError.

    Splits are the lists train, val and test in ImageSets, or folders of these names.
    """
    masks = _in_folders(files, _OBJECT_FOLDERS)
    if not masks:
        if _in_folders(files, _CLASS_FOLDERS):
            raise DataError(f"{files.path} has SegmentationClass but no SegmentationObject: objects are not separated.")
        data = read_boxes(files, options)
        kind = "Main"
    else:
        data = _read_masks(files, masks)
        kind = "Segmentation"
    unlabelled = find_unlabelled(files, data.images)
    splits = _read_lists(files, kind)
    if splits:
        for image in data.images:
            image.split = splits.get(stem_of(image.name), "")
        listed = [image for image in data.images if image.split]
        if left := len(data.images) - len(listed):
            data.notes.append(f"{left} images are in no list of ImageSets/{kind} and are left out.")
        data.images = listed
    pictures = set(_in_folders(files, _all_folders()))
    data.notes += describe_unlabelled(unlabelled - pictures, lacking="mask" if masks else "annotation")
    return data


def _all_folders() -> tuple[str, ...]:
    return (*_OBJECT_FOLDERS, *_CLASS_FOLDERS, "SegmentationObjectVisualization", "SegmentationClassVisualization")


def _in_folders(files: DatasetFiles, folders: Iterable[str]) -> list[str]:
    wanted = set(folders)
    return [name for name in files.images if wanted & set(name.split("/")[:-1])]


def _read_lists(files: DatasetFiles, kind: str) -> dict[str, str]:
    """Returns the split of each image that a list names; the combined list trainval is not needed."""
    splits: dict[str, str] = {}
    for name in files.with_suffix(".txt"):
        split = split_of_word(stem_of(name))
        if split and name.split("/")[-3:-1] == ["ImageSets", kind]:
            for line in files.read_text(name).splitlines():
                if line.strip():
                    splits.setdefault(stem_of(line.split()[0] + ".x"), split)
    return splits


def _read_masks(files: DatasetFiles, masks: list[str]) -> FormatData:
    names, colours = _read_classes(files)
    class_masks = {stem_of(name): name for name in _in_folders(files, _CLASS_FOLDERS)}
    others = set(_in_folders(files, _all_folders()))
    images = []
    for mask in masks:
        found = [name for name in files.images_by_stem.get(stem_of(mask), ()) if name not in others]
        image = FormatImage(found[0] if found else mask, split_of_path(mask))
        try:
            if len(found) != 1:
                raise FileFault("several images fit the mask" if found else "mask has no image")
            numbers = _to_indices(read_index_image(files.read(mask)), {})
            if stem_of(mask) not in class_masks:
                raise FileFault("mask in SegmentationObject has none in SegmentationClass")
            classes = _to_indices(read_index_image(files.read(class_masks[stem_of(mask)])), colours)
            if numbers.shape != classes.shape:
                raise FileFault("masks of objects and classes differ in size")
            _add_objects(image, numbers, classes, names)
        except FileFault as fault:
            images.append(FormatImage(mask, image.split, fault=fault.reason))
            continue
        images.append(image)
    return FormatData(images, [{"name": name} for name in names[1:]])


def _add_objects(image: FormatImage, numbers: np.ndarray, classes: np.ndarray, names: list[str]) -> None:
    """Adds an object for each number but 0 and VOID; its class is that of most of its pixels."""
    image.image_hw = (numbers.shape[0], numbers.shape[1])
    void = (numbers == VOID) | (classes == VOID)
    if void.any():
        image.void = encode_region(void)
    for number in np.unique(numbers):
        if number in (0, VOID):
            continue
        inside = numbers == number
        own = classes[inside]
        own = own[(own > 0) & (own != VOID)]
        label = int(np.bincount(own).argmax()) if len(own) and own.max() < 2**16 else 0
        if 0 < label < len(names):
            image.objects.append({"category": names[label], "segmentation": encode_region(inside)})
        else:
            reason = "class of the object is not in the list of names" if label else "object has no class"
            image.lost.append((reason, f"object {number}"))


def _read_classes(files: DatasetFiles) -> tuple[list[str], dict[int, int]]:
    """Returns the names by number, of which 0 is the background, and the number of each colour that a list gives."""
    for name in files.names:
        if posixpath.basename(name) not in _NAME_FILES:
            continue
        rows = [line.strip().split(":") for line in files.read_text(name).splitlines()]
        rows = [row for row in rows if row[0] and not row[0].startswith(("#", "__ignore__"))]
        background = [row for row in rows if row[0].lower() in _BACKGROUND]
        rows = (background or [["background"]]) + [row for row in rows if row not in background]
        colours = {}
        for number, row in enumerate(rows):
            parts = row[1].split(",") if len(row) > 1 else []
            if len(parts) == 3 and all(part.strip().isdigit() for part in parts):
                red, green, blue = map(int, parts)
                colours[red + 256 * green + 65536 * blue] = number
        return [row[0] for row in rows], colours
    return ["background", *CLASSES], {}


def official_colours() -> dict[int, int]:
    """Returns the number of each colour in VOC's palette of 256; a colour is red + 256 green + 65536 blue.

    Bits 3k, 3k + 1 and 3k + 2 of a number are bits 7 - k of red, green and blue.
    """
    colours = {}
    for number in range(256):
        red, green, blue = (sum((number >> 3 * k + c & 1) << 7 - k for k in range(3)) for c in range(3))
        colours[red + 256 * green + 65536 * blue] = number
    return colours


def _to_indices(numbers: np.ndarray, colours: dict[int, int]) -> np.ndarray:
    """Returns the numbers of objects or classes in an image of them, whose values above 255 are colours."""
    if numbers.max(initial=0) <= VOID:
        return numbers
    table = official_colours() | colours
    values, inverse = np.unique(numbers, return_inverse=True)
    if all(value in table for value in values.tolist()):
        values = np.array([table[value] for value in values.tolist()])
    return values[inverse.reshape(numbers.shape)]
