"""Writes the data set of writers.py in the formats of masks, independently of the readers."""

from collections.abc import Callable

import numpy as np

from tests.data.formats.writers import (
    Files,
    Item,
    Photo,
    as_own_mask,
    as_visible_mask,
    class_names,
    cvat_xml,
    png,
    with_images,
)


def cvat_mask(mask: np.ndarray, label: str) -> str:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    runs, value, length = [], False, 0
    for pixel in part.ravel():
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    box = f'left="{columns[0]}" top="{rows[0]}" width="{part.shape[1]}" height="{part.shape[0]}"'
    return f'<mask label="{label}" occluded="0" rle="{", ".join(map(str, [*runs, length]))}" {box}/>'


def cvat_masks(photos: list[Photo]) -> Files:
    def shape(photo: Photo, item: Item) -> str:
        return cvat_mask(item.mask(photo.image_hw), item.label)

    return {"annotations.xml": cvat_xml(photos, shape), **with_images(photos, "images/")}


def voc(photos: list[Photo], void: Callable[[Photo], np.ndarray] | None = None) -> Files:
    names = ["background", *class_names(photos)]
    files = {"VOC/labelmap.txt": "".join(f"{name}:::\n" for name in names).encode()}
    for photo in photos:
        numbers = photo.numbers()
        classes = np.zeros_like(numbers)
        for number, item in enumerate(photo.items, start=1):
            classes[numbers == number] = names.index(item.label)
        if void is not None:
            numbers[void(photo)] = classes[void(photo)] = 255
        files[f"VOC/SegmentationObject/{photo.stem}.png"] = png(numbers, palette=True)
        files[f"VOC/SegmentationClass/{photo.stem}.png"] = png(classes, palette=True)
    return files | with_images(photos, "VOC/JPEGImages/")


def masks(photos: list[Photo]) -> Files:
    files = {f"masks/{photo.stem}.png": png(photo.numbers()) for photo in photos}
    return files | with_images(photos, "images/")


def masks_with_ending(photos: list[Photo]) -> Files:
    files = {f"PedMasks/{photo.stem}_mask.png": png(photo.numbers() * 300) for photo in photos}
    return files | with_images(photos, "PNGImages/")


def bowl(photos: list[Photo]) -> Files:
    """The Data Science Bowl: a folder for each image; its image is named after it."""
    files = {}
    for photo in photos:
        files[f"stage1_train/{photo.stem}/images/{photo.name}"] = photo.data
        for number, item in enumerate(photo.items):
            mask = item.mask(photo.image_hw) * 255
            files[f"stage1_train/{photo.stem}/masks/{number:03d}.png"] = png(mask)
    return files


MASK_FORMATS = {
    "cvat_masks": (cvat_masks, "cvat", as_own_mask, ""),
    "voc": (voc, "voc", as_visible_mask, ""),
    "masks": (masks, "masks", as_visible_mask, "object"),
    "masks_with_ending": (masks_with_ending, "masks", as_visible_mask, "object"),
    "bowl": (bowl, "masks", as_own_mask, "object"),
}
