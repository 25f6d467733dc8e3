"""Reading one COCO annotation: what is wrong is repaired where its meaning is clear, and every repair is named."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mrcnn_jax.data.annotations import COORDINATE_BOUND, check_bbox, clip_bbox, find_fault
from mrcnn_jax.data.bitmaps import mask_area
from mrcnn_jax.data.box_forms import COCO_FORM, convert_bbox, has_another_form
from mrcnn_jax.data.data_findings import BOX_KEPT
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.json_values import read_flag, read_number
from mrcnn_jax.data.mask_boxes import FITS, BBox, bbox_iou, mask_bbox
from mrcnn_jax.data.segmentations import read_segmentation

_OTHER_BBOX = "bbox is not a list of four numbers"


@dataclass(frozen=True)
class FileForm:
    """What all objects of an annotation file have in common."""

    num_keypoints: Mapping[int, int]  # by category id
    box_form: str = COCO_FORM  # one of box_forms.FORMS
    mask_unit: float = 0.0  # coordinates of polygons are pixels (0), or the image's sides are 1 or 100
    y_first: bool = False  # points of polygons are y, x
    keypoint_unit: float = 0.0  # the unit of keypoints
    boxes_are_of_masks: bool = False  # the format gives no box beside a mask, so none is missing
    crowds_are_objects: bool = False  # take objects with iscrowd as ordinary objects


@dataclass
class ReadObject:
    """An annotation after reading: either valid, or left out for a reason."""

    annotation: dict[str, Any] | None
    left_out: str | None = None
    repairs: list[str] = field(default_factory=list)


def read_object(given: Mapping[str, Any], image_hw: ImageHW, form: FileForm) -> ReadObject:
    """Returns a valid COCO annotation of an image of this size, with what was repaired, or why it is left out.

    Numbers that are valid stay exactly as they are.
    """
    repairs: list[str] = []
    annotation = {key: value for key, value in given.items() if key not in ("bbox", "segmentation", "keypoints")}
    is_crowd = read_flag(given.get("iscrowd"))
    if read_flag(given.get("ignore")) and not is_crowd:
        repairs.append("object marked to be ignored is taken as a crowd")
        is_crowd = True
    if is_crowd is None or type(given.get("iscrowd", 0)) not in (int, bool):
        repairs.append("iscrowd is not 0 or 1")
    annotation["iscrowd"] = int(bool(is_crowd) and not form.crowds_are_objects)
    bbox = _read_bbox(given.get("bbox"), image_hw, form, repairs)
    area = read_number(given.get("area"))
    scale = unit_scale(form.mask_unit, image_hw)
    mask = read_segmentation(given.get("segmentation"), image_hw, bbox, area, scale, y_first=form.y_first)
    repairs += mask.repairs
    if form.mask_unit and mask.segmentation is not None:
        repairs.append(f"segmentation is in {'percent' if form.mask_unit == 100 else 'shares'} of the image")
    if mask.is_empty:
        return ReadObject(None, "mask is empty", repairs)
    if mask.segmentation is None:
        if bbox is None:
            return ReadObject(None, _explain_nothing(given.get("bbox"), mask.repairs, image_hw), repairs)
        if form.box_form != COCO_FORM:
            repairs.append(f"bbox is {form.box_form}")
        turned = _turn_bbox(bbox, given.get("attributes"))
        if turned != bbox:
            repairs.append("bbox is turned by its attribute rotation, the box around it is taken")
        annotation["bbox"] = given["bbox"] if given["bbox"] == list(turned) else list(turned)
    else:
        annotation["segmentation"] = mask.segmentation
        of_mask = mask_bbox(mask.segmentation, image_hw)
        annotation["bbox"] = _choose_bbox(given.get("bbox"), bbox, of_mask, form, repairs)
    _complete_area(annotation, area, given, image_hw, form, repairs)
    if keypoints := _read_keypoints(given, form, image_hw, repairs):
        annotation["keypoints"] = keypoints
    fault = find_fault(annotation, image_hw)
    return ReadObject(None if fault else annotation, fault, repairs)


def _read_bbox(given: object, image_hw: ImageHW, form: FileForm, repairs: list[str]) -> BBox | None:
    """Returns x, y, width, height in pixels, or None if the annotation has no usable box."""
    bbox = numbers_of_bbox(given)
    if bbox is None:
        return None
    if not isinstance(given, list) or any(isinstance(side, str | list) for side in given):
        repairs.append(_OTHER_BBOX)
    converted = convert_bbox(bbox, form.box_form, image_hw)
    if min(converted[2:]) < 0:
        x, y, width, height = converted
        converted = (min(x, x + width), min(y, y + height), abs(width), abs(height))
        repairs.append("bbox has a negative width or height and is taken as drawn from another corner")
    return None if check_bbox(list(converted), image_hw) else converted


def _explain_nothing(bbox: object, lost: list[str], image_hw: ImageHW) -> str:
    """Returns why an object has neither a mask nor a box."""
    of_mask = next((reason.removesuffix(BOX_KEPT) for reason in lost if reason.endswith(BOX_KEPT)), "")
    if bbox in (None, [], "", {}):
        return f"{of_mask}, and there is no bbox" if of_mask else "object has neither bbox nor segmentation"
    of_bbox = check_bbox(bbox, image_hw) or "bbox has no extent"
    return f"{of_mask}, and {of_bbox}" if of_mask else of_bbox


def _turn_bbox(bbox: BBox, attributes: object) -> BBox:
    """Returns the box around a rectangle that CVAT stores unturned, with the angle in degrees as an attribute."""
    angle = read_number(attributes.get("rotation")) if isinstance(attributes, dict) else None
    if not angle or angle % 180 == 0:
        return bbox
    x, y, width, height = bbox
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    turned_width, turned_height = width * cos + height * sin, width * sin + height * cos
    return x + (width - turned_width) / 2, y + (height - turned_height) / 2, turned_width, turned_height


def numbers_of_bbox(given: object) -> BBox | None:
    """Returns the four numbers of an annotation's `bbox`, or None if it has no four finite numbers.

    A bbox may also be a column.
    """
    if not isinstance(given, list) or len(given) != 4:
        return None
    lone = [side[0] if isinstance(side, list) and len(side) == 1 else side for side in given]
    first, second, third, fourth = map(read_number, lone)
    if first is None or second is None or third is None or fourth is None:
        return None
    return first, second, third, fourth


def _choose_bbox(given: object, bbox: BBox | None, of_mask: BBox, form: FileForm, repairs: list[str]) -> Any:
    """Returns the box of an object with a mask: the file's if it fits the mask, otherwise the mask's."""
    if bbox is None and given is None and form.boxes_are_of_masks:
        return list(of_mask)
    if bbox is None:
        repairs.append("bbox is missing" if given in (None, []) else "bbox is not usable, the mask's is taken")
        return list(of_mask)
    if form.box_form != COCO_FORM:
        repairs.append(f"bbox is {form.box_form}, the mask's is taken")
        return list(of_mask)
    iou = bbox_iou(bbox, of_mask)
    if (iou < FITS or has_another_form(bbox, of_mask, iou)) and of_mask[2] > 0 and of_mask[3] > 0:
        repairs.append("bbox does not fit the mask, the mask's is taken")
        return list(of_mask)
    return given if given == list(bbox) else list(bbox)


def _complete_area(
    annotation: dict[str, Any],
    area: float | None,
    given: Mapping[str, Any],
    image_hw: ImageHW,
    form: FileForm,
    repairs: list[str],
) -> None:
    """Sets the area: the file's if it is possible, otherwise that of the mask or box."""
    num_pixels = image_hw[0] * image_hw[1]
    if annotation["iscrowd"] and "segmentation" not in annotation:  # a crowd without a mask covers its box
        x0, y0, x1, y1 = clip_bbox(annotation["bbox"], image_hw)
        annotation["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if area is not None and 0 < area <= 4 * num_pixels and form.mask_unit != 1:
        annotation["area"] = area if isinstance(given.get("area"), str) else given["area"]
        if isinstance(given["area"], str):
            repairs.append("area is text")
        return
    if given.get("area") is not None:
        repairs.append("area is not a possible number of pixels")
    if "segmentation" in annotation:
        annotation["area"] = mask_area(annotation["segmentation"], image_hw)
    else:
        x0, y0, x1, y1 = clip_bbox(annotation["bbox"], image_hw)
        annotation["area"] = (x1 - x0) * (y1 - y0)


def _read_keypoints(given: Mapping[str, Any], form: FileForm, image_hw: ImageHW, repairs: list[str]) -> list[float]:
    """Returns x, y, visibility of each keypoint of the category; [] if there are none, or if they cannot be read."""
    values = given.get("keypoints")
    num_keypoints = form.num_keypoints.get(given["category_id"], 0)
    if not values or not num_keypoints:
        return []
    flat: list[Any] = []
    if not isinstance(values, list):
        repairs.append("keypoints cannot be read and are left out")
        return []
    if any(isinstance(entry, list) for entry in values):
        repairs.append("keypoints are nested")
        for entry in values:
            flat += ([*entry, 2] if len(entry) == 2 else entry) if isinstance(entry, list) else [0, 0, 0]
    else:
        flat = list(values)
    if len(flat) == 2 * num_keypoints and not _may_be_triples(flat):
        repairs.append("keypoints have no visibility")
        pairs = zip(flat[::2], flat[1::2], strict=True)
        flat = [value for x, y in pairs for value in (x, y, 0 if read_number(x) == read_number(y) == 0 else 2)]
    if len(flat) != 3 * num_keypoints:
        repairs.append("number of keypoints differs from the category's; they are left out")
        return []
    bound = COORDINATE_BOUND * max(image_hw)
    scale = unit_scale(form.keypoint_unit, image_hw)
    if form.keypoint_unit:
        repairs.append(f"keypoints are in {'percent' if form.keypoint_unit == 100 else 'shares'} of the image")
    points: list[float] = []
    for x, y, visibility in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        numbers = (
            read_number(x),
            read_number(y),
            read_number(visibility * 1 if isinstance(visibility, bool) else visibility),
        )
        if any(number is None or abs(number) > bound for number in numbers) or numbers[:2] == (-1, -1):
            if visibility:
                repairs.append("keypoints without usable coordinates are taken as not annotated")
            numbers = (0, 0, 0)
        elif numbers[2] not in (0, 1, 2):
            repairs.append("visibility is not 0, 1 or 2; above 0 means visible")
            numbers = (*numbers[:2], 2 if numbers[2] is not None and numbers[2] > 0 else 0)
        points += [number * factor for number, factor in zip(numbers, (*scale, 1), strict=True) if number is not None]
    return points


def _may_be_triples(flat: list[Any]) -> bool:
    """Returns whether x, y without visibility may as well be x, y, visibility of fewer keypoints."""
    return len(flat) % 3 == 0 and all(visibility in (0, 1, 2) for visibility in flat[2::3])


def unit_scale(unit: float, image_hw: ImageHW) -> tuple[float, float]:
    """Returns the pixels of a unit along x and y, where the image's sides are `unit` long, or are in pixels for 0."""
    return (image_hw[1] / unit, image_hw[0] / unit) if unit else (1, 1)
