"""Folders of instance masks: a picture of object numbers for each image, or a file for each object.

Numbers: an image and its mask have the same name, but for a suffix such as _mask, and lie in different folders or
have different suffixes. Files: a folder for each image with `images` and `masks`, as in the Data Science Bowl 2018.
"""

import posixpath
import re
from collections import defaultdict

import numpy as np

from mrcnn_jax.data.formats.dataset_files import DatasetFiles, FileFault, stem_of, suffix_of
from mrcnn_jax.data.formats.drawn_shapes import encode_region
from mrcnn_jax.data.formats.format_data import FormatData, FormatImage, FormatOptions, describe_unlabelled
from mrcnn_jax.data.formats.index_images import read_index_image
from mrcnn_jax.data.formats.split_names import split_of_path

MAX_OBJECTS = 10_000
"""Masks with more values are taken for photographs or continuous values."""

_ENDING = re.compile(r"[_\-.]?(instance_?)?(masks?|labels?|labelids|instances?|instanceids|seg|segmentation|gt)$", re.I)
_FOLDER = re.compile(r"(masks?|labels?|instances?|pedmasks|segmentations?|gt|annotations?)", re.I)
_EXACT = (".png", ".tif", ".tiff", ".bmp", ".gif")


def recognise(files: DatasetFiles) -> str:
    """Returns why the files are instance masks, or nothing."""
    for image, masks in _objects(files)[0].items():
        return f"beside the folder of {image} lies one with {len(masks)} masks"
    for mask, image in _pair(files)[0].items():
        return f"{mask} has the name of {image}"
    return ""


def read(files: DatasetFiles, options: FormatOptions) -> FormatData:
    """Returns the images that have masks. Every value but 0 is an object of the one class."""
    objects, bare = _objects(files)
    if objects:
        return _read_objects(files, objects, bare, options)
    pairs, lone = _pair(files)
    images = []
    num_single = 0
    for mask, name in pairs.items():
        image = FormatImage(name, split_of_path(name))
        try:
            numbers = read_index_image(files.read(mask))
        except FileFault as fault:
            images.append(FormatImage(mask, image.split, fault=fault.reason))
            continue
        values = np.unique(numbers)
        values = values[values != 0]
        num_single += len(values) == 1
        if len(values) > MAX_OBJECTS:
            images.append(FormatImage(mask, image.split, fault="mask has more than 10000 values"))
            continue
        image.image_hw = (numbers.shape[0], numbers.shape[1])
        image.objects = [
            {"category": options.class_name, "segmentation": encode_region(numbers == value)} for value in values
        ]
        images.append(image)
    images += [FormatImage(mask, split_of_path(mask), fault="mask has no image") for mask in lone]
    unlabelled = set(files.images) - {*pairs, *pairs.values(), *lone}
    notes = [_describe_class(options), *describe_unlabelled(unlabelled)]
    if num_single == len(pairs) > 1:
        notes.append("Warning: every mask has one value: all of its pixels are taken as one object of the image.")
    return FormatData(images, [{"name": options.class_name}], notes)


def _describe_class(options: FormatOptions) -> str:
    return f"Masks have no classes: all objects are of the class {options.class_name!r} (--class-name)."


def _pair(files: DatasetFiles) -> tuple[dict[str, str], list[str]]:
    """Returns the image of each mask, and masks without an image."""
    folders = {posixpath.dirname(name) for name in files.images}
    of_masks = {folder for folder in folders if any(_FOLDER.fullmatch(part) for part in folder.split("/"))}
    candidates: dict[str, list[str]] = defaultdict(list)
    for name in files.images:
        if posixpath.dirname(name) not in of_masks:
            candidates[stem_of(name)].append(name)
    pairs: dict[str, str] = {}
    lone: list[str] = []
    for name in files.images:
        stem, is_in_folder = stem_of(name), posixpath.dirname(name) in of_masks
        if suffix_of(name) not in _EXACT or not (is_in_folder or _ENDING.search(stem)):
            continue
        stems = dict.fromkeys((stem, _ENDING.sub("", stem)))
        others = [other for wanted in stems for other in candidates.get(wanted, ()) if other != name]
        shares = [_share(other, name) for other in others]
        near = [other for other, share in zip(others, shares, strict=True) if share == max(shares)]
        if len(near) == 1:
            pairs[name] = near[0]
        elif is_in_folder:
            lone.append(name)
    return pairs, lone


def _share(first: str, second: str) -> tuple[int, bool]:
    """Returns how many folders two files share, as sets of names, and whether both are of the same split."""
    shared = len({*first.split("/")[:-1]} & {*second.split("/")[:-1]})
    return shared, split_of_path(first) == split_of_path(second)


def _objects(files: DatasetFiles) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the masks of each image that is alone in a folder `images` beside one `masks`; and images without masks.

    Folders of all images and all masks are none of these.
    """
    images: dict[str, list[str]] = defaultdict(list)
    masks: dict[str, list[str]] = defaultdict(list)
    for name in files.images:
        folder, kind = posixpath.split(posixpath.dirname(name))
        if kind in ("images", "image"):
            images[folder].append(name)
        elif kind in ("masks", "mask"):
            masks[folder].append(name)
    both = sorted(set(images) & set(masks))
    if not both or any(len(images[folder]) != 1 for folder in both):
        return {}, []
    if len(both) == 1 and [stem_of(name) for name in masks[both[0]]] == [stem_of(images[both[0]][0])]:
        return {}, []  # a data set of one image and its numbers
    bare = [name for folder, names in images.items() if folder not in masks for name in names]
    return {images[folder][0]: masks[folder] for folder in both}, bare


def _read_objects(
    files: DatasetFiles, objects: dict[str, list[str]], bare: list[str], options: FormatOptions
) -> FormatData:
    """Returns the images with a file for each object, whose pixels are those that are not 0."""
    images = []
    for name, masks in objects.items():
        image = FormatImage(name, split_of_path(name))
        for mask in masks:
            which = repr(stem_of(mask)[:60])
            try:
                inside = read_index_image(files.read(mask)) != 0
            except FileFault as fault:
                image.lost.append((fault.reason, which))
                continue
            image.image_hw = image.image_hw or (inside.shape[0], inside.shape[1])
            if image.image_hw != inside.shape:
                image.lost.append(("size of the mask differs from the others of its image", which))
            else:
                image.objects.append({"category": options.class_name, "segmentation": encode_region(inside)})
        images.append(image)
    used = {*objects, *(mask for masks in objects.values() for mask in masks)}
    notes = [_describe_class(options), *describe_unlabelled({*bare, *files.images} - used)]
    return FormatData(images, [{"name": options.class_name}], notes)
