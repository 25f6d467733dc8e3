"""The frame of annotations of images that carry a camera's EXIF orientation.

Images are always read upright, as viewers show them. Most tools annotate upright images; some annotate the pixels as
they are stored. The sizes in the file, run lengths, and objects that do not fit one of the frames tell which; objects
in the stored frame are turned with their image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mrcnn_jax.data.bitmaps import decode_mask, encode_mask
from mrcnn_jax.data.images import ImageHeader, ImageHW, turn_upright, upright_hw
from mrcnn_jax.data.json_values import read_integer
from mrcnn_jax.data.polygons import polygon_extent
from mrcnn_jax.data.read_object import numbers_of_bbox

Rotation = Literal["auto", "upright", "stored"]
"""Frame of the annotations of rotated images; `auto` decides by the file and takes upright where it does not tell."""

_MARGIN = 2.0  # pixels by which annotations may extend beyond their image


@dataclass(frozen=True)
class RotatedImage:
    """An image whose EXIF orientation is not 1, with what its annotation file says."""

    header: ImageHeader
    size_in_file: ImageHW | None
    annotations: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Frames:
    """The frame chosen for each rotated image, and how."""

    is_stored: list[bool]
    notes: list[str]


def choose_frames(images: Sequence[RotatedImage], rotation: Rotation = "auto") -> Frames:
    """Returns which of the rotated images have annotations in the frame of the stored pixels.

    An image's run lengths or its objects prove its frame; then its size does, unless the objects of other images prove
    that the file's sizes are those of stored pixels while its objects are upright. Images that prove nothing follow the
    others of the file, and are upright if those prove nothing, either.
    """
    if rotation != "auto":
        return Frames([rotation == "stored"] * len(images), [])
    if not images:
        return Frames([], [])
    by_objects = [_frame_of_objects(image) for image in images]
    by_size = [_frame_of_size(image) for image in images]
    sizes_mislead = any(o == "upright" and s == "stored" for o, s in zip(by_objects, by_size, strict=True))
    votes = [o or (None if sizes_mislead else s) for o, s in zip(by_objects, by_size, strict=True)]
    is_mostly_stored = votes.count("stored") > votes.count("upright")
    chosen = [vote or ("stored" if is_mostly_stored else "upright") for vote in votes]
    counts = f"{chosen.count('upright')} upright, {chosen.count('stored')} as stored"
    undecided = votes.count(None)
    note = f"{len(images)} images carry a camera's rotation; the frame of their annotations: {counts}."
    if undecided:
        note += f" For {undecided} of them the file does not tell"
        note += ", so that they follow the others." if undecided < len(images) else ", so that upright is assumed."
    elif not any(by_objects) and not sizes_mislead:
        note += " Their sizes tell."
    note += " If masks lie beside their objects, pass --rotation upright or --rotation stored."
    return Frames([frame == "stored" for frame in chosen], [note])


def _frame_of_size(image: RotatedImage) -> str | None:
    stored, upright = image.header.stored_hw, image.header.image_hw
    if stored == upright or image.size_in_file not in (stored, upright):
        return None
    return "stored" if image.size_in_file == stored else "upright"


def _frame_of_objects(image: RotatedImage) -> str | None:
    """Returns the only frame into which all objects fit, or None."""
    stored, upright = image.header.stored_hw, image.header.image_hw
    if stored == upright:
        return None
    fits_stored = fits_upright = True
    for annotation in image.annotations:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict) and isinstance(size := segmentation.get("size"), list):
            sides = tuple(map(read_integer, size))
            fits_stored &= sides == stored
            fits_upright &= sides == upright
        bbox = numbers_of_bbox(annotation.get("bbox"))
        extent = polygon_extent(segmentation)
        if extent is None and bbox is not None:
            extent = bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]
        if extent is not None:
            right, bottom = extent[2:]
            fits_stored &= right <= stored[1] + _MARGIN and bottom <= stored[0] + _MARGIN
            fits_upright &= right <= upright[1] + _MARGIN and bottom <= upright[0] + _MARGIN
    if fits_stored == fits_upright:
        return None
    return "stored" if fits_stored else "upright"


def turn_annotation(annotation: Mapping[str, Any], stored_hw: ImageHW, orientation: int) -> dict[str, Any]:
    """Returns a valid annotation of the stored pixels as one of the upright image."""
    turned = dict(annotation)
    x, y, width, height = annotation["bbox"]
    corners = _turn_points(np.array([[x, y], [x + width, y + height]], np.float64), stored_hw, orientation)
    (x0, y0), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    turned["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        turned["segmentation"] = encode_mask(turn_upright(decode_mask(segmentation, stored_hw), orientation))
    elif segmentation:
        points = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]
        turned["segmentation"] = [_turn_points(part, stored_hw, orientation).ravel().tolist() for part in points]
    if keypoints := annotation.get("keypoints"):
        rows = np.asarray(keypoints, np.float64).reshape(-1, 3)
        # Keypoints are indices of pixels; the centre of a pixel is half a pixel further.
        moved = _turn_points(rows[:, :2] + 0.5, stored_hw, orientation) - 0.5
        rows[:, :2] = np.where(rows[:, 2:] > 0, moved, 0.0)
        turned["keypoints"] = rows.ravel().tolist()
    return turned


def _turn_points(points: np.ndarray, stored_hw: ImageHW, orientation: int) -> np.ndarray:
    """Returns where points [N, 2] (x, y) of the stored pixels lie in the upright image."""
    x, y = points.T
    if orientation >= 5:
        x, y = y, x
    height, width = upright_hw(stored_hw, orientation)
    if orientation in (3, 4, 7, 8):
        y = height - y
    if orientation in (2, 3, 6, 7):
        x = width - x
    return np.stack([x, y], axis=-1)
