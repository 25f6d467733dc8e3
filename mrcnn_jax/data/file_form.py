"""What the objects of an annotation file have in common: units of coordinates and the form of boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_jax.data.box_forms import COCO_FORM, NO_FORM, BoxSample, count_agreements, find_form
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.json_values import read_number
from mrcnn_jax.data.mask_boxes import BBox, mask_bbox
from mrcnn_jax.data.polygons import polygon_extent
from mrcnn_jax.data.read_object import FileForm, numbers_of_bbox, unit_scale
from mrcnn_jax.data.segmentations import read_bitmap, read_segmentation

Object = tuple[Mapping[str, Any], ImageHW]
"""An annotation with the size of the frame in which it is given."""

_NUM_SAMPLES = 2000
_SHARE = 0.8  # of the objects have to agree
_LARGE = 1.5  # pixels per square percent from which areas distinguish the two
_MARGIN = 1.0  # pixels by which polygons may extend beyond the image
_MIN_OUTSIDE = 3  # polygons beyond their images that prove the order of coordinates
_OVERFLOW = 1.2  # objects that reach further beyond the image mean that it was resized


def find_file_form(objects: Sequence[Object], num_keypoints: Mapping[int, int]) -> tuple[FileForm, list[str]]:
    """Returns what a part of the objects tells about all, and one line for each suspicion that is not acted on."""
    sampled = objects[:: max(1, len(objects) // _NUM_SAMPLES)]
    extents = [
        extent
        for annotation, image_hw in sampled
        if read_bitmap(annotation.get("segmentation"), image_hw) is None
        and (extent := polygon_extent(annotation.get("segmentation"))) is not None
    ]
    mask_unit = 0.0
    if extents and np.max(np.abs(extents)) <= 1:
        mask_unit = 1.0
    elif extents and np.max(np.abs(extents)) <= 100 and _are_percent(sampled):
        mask_unit = 100.0
    y_first = not mask_unit and _is_y_first(sampled)
    read = (_sample(annotation, image_hw, mask_unit, y_first=y_first) for annotation, image_hw in sampled)
    samples = [sample for sample in read if sample is not None]
    form = FileForm(num_keypoints, find_form(samples), mask_unit, y_first, _keypoint_unit(sampled))
    notes = []
    if form.box_form == NO_FORM:
        notes.append(
            "Warning: most boxes do not fit their masks, in any known form. The boxes of the masks are taken; if the "
            "masks are wrong, correct the file."
        )
    if factor := _overflow(samples, form):
        notes.append(
            f"Warning: objects reach beyond their images by a factor of about {factor:.1f}. If the images were resized "
            "after the annotation, use the images of the original size."
        )
    return form, notes


def _sample(
    annotation: Mapping[str, Any], image_hw: ImageHW, unit: float, *, y_first: bool = False
) -> BoxSample | None:
    bbox = numbers_of_bbox(annotation.get("bbox"))
    if bbox is None or bbox[2] == bbox[3] == 0:
        return None
    scale = unit_scale(unit, image_hw)
    read = read_segmentation(annotation.get("segmentation"), image_hw, bbox, scale=scale, y_first=y_first)
    mask = read.segmentation
    of_mask = None if mask is None else mask_bbox(mask, image_hw)
    return BoxSample(bbox, of_mask, image_hw, read_number(annotation.get("area")))


def _is_y_first(objects: Sequence[Object]) -> bool:
    """Returns whether polygons reach beyond their images as x, y, and none does as y, x."""
    num_outside = 0
    for annotation, (height, width) in objects:
        if read_bitmap(annotation.get("segmentation"), (height, width)) is not None:
            continue
        extent = polygon_extent(annotation.get("segmentation"))
        if extent is None:
            continue
        if min(extent) < -_MARGIN or extent[2] > height + _MARGIN or extent[3] > width + _MARGIN:
            return False
        num_outside += extent[2] > width + _MARGIN or extent[3] > height + _MARGIN
    return num_outside >= _MIN_OUTSIDE


def _are_percent(objects: Sequence[Object]) -> bool:
    """Returns whether boxes in pixels, or else areas in pixels, prove that polygons are in percent of the image."""
    in_pixels = [sample for annotation, hw in objects if (sample := _sample(annotation, hw, 0.0)) and sample.of_mask]
    in_percent = [sample for annotation, hw in objects if (sample := _sample(annotation, hw, 100.0)) and sample.of_mask]
    if count_agreements(in_percent, COCO_FORM) >= _SHARE * max(len(in_percent), 1):
        return count_agreements(in_pixels, COCO_FORM) < len(in_pixels) / 2
    ratios = []
    for annotation, (height, width) in objects:
        extent, area = polygon_extent(annotation.get("segmentation")), read_number(annotation.get("area"))
        if extent is not None and area and (box_area := (extent[2] - extent[0]) * (extent[3] - extent[1])) > 0:
            ratios.append((area / box_area, height * width / 10_000))
    # The area of a polygon is at most that of its box, and seldom a small part of it.
    proofs = [0.3 * factor < ratio <= 1.05 * factor and ratio > 1.05 for ratio, factor in ratios if factor > _LARGE]
    return bool(proofs) and sum(proofs) >= _SHARE * len(proofs)


def _keypoint_unit(objects: Sequence[Object]) -> float:
    """Returns 1 if all keypoints are within 0..1, 100 if they lie in their boxes as percent alone, else 0."""
    largest, num_in_pixels, num_in_percent, num_points = 0.0, 0, 0, 0
    for annotation, (height, width) in objects:
        values = annotation.get("keypoints")
        if not isinstance(values, list):
            continue
        rows = (
            values
            if any(isinstance(value, list) for value in values)
            else [values[i : i + 3] for i in range(0, len(values), 3)]
        )
        for row in rows:
            x, y = map(read_number, row[:2]) if isinstance(row, list) and len(row) > 1 else (None, None)
            if not x or not y:
                continue
            largest = max(largest, abs(x), abs(y))
            bbox = numbers_of_bbox(annotation.get("bbox"))
            if bbox is not None:
                num_points += 1
                num_in_pixels += _is_inside(x, y, bbox)
                num_in_percent += _is_inside(x * width / 100, y * height / 100, bbox)
    if 0 < largest <= 1:
        return 1.0
    is_percent = largest <= 100 and num_points > 0 and num_in_percent >= _SHARE * num_points > 2 * num_in_pixels
    return 100.0 if is_percent else 0.0


def _is_inside(x: float, y: float, bbox: BBox) -> bool:
    margin = 0.1 * max(bbox[2], bbox[3])
    return -margin <= x - bbox[0] <= bbox[2] + margin and -margin <= y - bbox[1] <= bbox[3] + margin


def _overflow(samples: Sequence[BoxSample], form: FileForm) -> float | None:
    """Returns how far the boxes reach beyond their images, if a fifth of them do."""
    if form.box_form not in (COCO_FORM, NO_FORM) or not samples:
        return None
    # A mask that is clipped by its image reaches its border.
    reaches = np.array([_reach(sample) for sample in samples])
    return float(reaches.max()) if np.mean(reaches > _OVERFLOW) > 1 - _SHARE else None


def _reach(sample: BoxSample) -> float:
    """Returns how many times the image's side a box ends from its start; 1 if its mask ends inside the image."""
    x, y, width, height = sample.bbox
    image_height, image_width = sample.image_hw
    reach = max((x + width) / image_width, (y + height) / image_height)
    if sample.of_mask is None:
        return reach
    x, y, width, height = sample.of_mask
    return reach if x + width >= image_width - 1 or y + height >= image_height - 1 else 1.0
