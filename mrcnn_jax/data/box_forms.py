"""The form of a file's boxes: COCO's x, y, width, height in pixels, or corners, centres, shares, percent."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.mask_boxes import BBox, bbox_iou

COCO_FORM = "x, y, width, height"
NO_FORM = "in no known form"
"""The form if boxes and masks of a file do not agree in any."""

_TO_COCO: dict[str, Callable[[BBox], BBox]] = {
    COCO_FORM: lambda b: b,
    "x0, y0, x1, y1": lambda b: (b[0], b[1], b[2] - b[0], b[3] - b[1]),
    "y, x, height, width": lambda b: (b[1], b[0], b[3], b[2]),
    "y0, x0, y1, x1": lambda b: (b[1], b[0], b[3] - b[1], b[2] - b[0]),
    "centre x, centre y, width, height": lambda b: (b[0] - b[2] / 2, b[1] - b[3] / 2, b[2], b[3]),
}
_UNITS = {"": 0.0, " as shares of the image": 1.0, " in percent of the image": 100.0}  # the image's side in this unit
_FROM_BELOW = ", y from the bottom"
FORMS = (*(name + end for end in _UNITS for name in _TO_COCO), COCO_FORM + _FROM_BELOW)
"""Names of the forms, the most usual ones first."""

_AGREES = 0.9  # IoU of a box in the right form with its mask's box
_SIMILAR = 0.7  # IoU that rounding leaves to boxes of small objects
_SHARE = 0.8  # of the boxes must agree with one form to name it
_MIN_BOXES = 3  # without masks, to name a form
_MANY_BOXES = 6  # that are all possible as corners, which widths and heights seldom are
_MARGIN = 1.0  # pixels by which boxes may extend beyond the image


@dataclass(frozen=True)
class BoxSample:
    """A box as the file has it, with what is known about its object."""

    bbox: BBox  # four finite numbers
    of_mask: BBox | None  # x, y, width, height of the object's mask
    image_hw: ImageHW
    area: float | None = None


def convert_bbox(bbox: BBox, form: str, image_hw: ImageHW) -> BBox:
    """Returns x, y, width, height in pixels of a box in one of FORMS; for NO_FORM, the box as it is."""
    if form == NO_FORM:
        return bbox
    height, width = image_hw
    if form.endswith(_FROM_BELOW):
        return bbox[0], height - bbox[1] - bbox[3], bbox[2], bbox[3]
    end = next(end for end in reversed(_UNITS) if form.endswith(end))
    x, y, box_width, box_height = _TO_COCO[form.removesuffix(end)](bbox)
    side = _UNITS[end]
    if not side:
        return x, y, box_width, box_height
    return x * width / side, y * height / side, box_width * width / side, box_height * height / side


def find_form(samples: Iterable[BoxSample]) -> str:
    """Returns the form of a file's boxes: COCO_FORM unless its masks prove another, or its images, if it has no masks.

    Returns NO_FORM if less than half of the boxes are similar to their masks.
    """
    samples = list(samples)
    with_masks = [sample for sample in samples if sample.of_mask is not None]
    if with_masks:
        agreements = {form: count_agreements(with_masks, form) for form in FORMS}
        best = max(FORMS, key=lambda form: agreements[form])
        if agreements[best] > agreements[COCO_FORM] and agreements[best] >= _SHARE * len(with_masks):
            return best
        num_similar = count_agreements(with_masks, COCO_FORM, _SIMILAR)
        is_hopeless = num_similar < len(with_masks) / 2 and len(with_masks) >= _MIN_BOXES
        return NO_FORM if is_hopeless else COCO_FORM
    if len(samples) < _MIN_BOXES:
        return COCO_FORM
    are_shares = all(0.0 <= side <= 1.0 for sample in samples for side in sample.bbox)
    unit = " as shares of the image" if are_shares else ""
    forms = [name + unit for name in _TO_COCO]
    possible = {form: sum(_is_possible(sample, form) for sample in samples) for form in forms}
    corners = forms[1]
    if sum(_proves_corners(sample) for sample in samples) >= _SHARE * len(samples):
        y_first = forms[3]
        return y_first if possible[y_first] == len(samples) >= possible[corners] + _MIN_BOXES else corners
    if len(samples) >= _MANY_BOXES and possible[corners] == len(samples) > possible[forms[0]]:
        return corners
    if possible[forms[0]] >= _SHARE * len(samples):
        return forms[0]
    return next((form for form in forms if possible[form] == len(samples)), forms[0])


def has_another_form(bbox: BBox, of_mask: BBox, iou: float) -> bool:
    """Returns whether a box that has this IoU with its mask agrees with it in another form, and much better."""
    return iou < _AGREES and any(
        bbox_iou(convert(bbox), of_mask) >= max(_AGREES, iou + 0.1) for convert in _TO_COCO.values()
    )


def count_agreements(samples: Iterable[BoxSample], form: str, min_iou: float = _AGREES) -> int:
    """Returns how many boxes in this form have at least this IoU with the box of their mask."""
    return sum(
        sample.of_mask is not None
        and bbox_iou(convert_bbox(sample.bbox, form, sample.image_hw), sample.of_mask) >= min_iou
        for sample in samples
    )


def _proves_corners(sample: BoxSample) -> bool:
    """Returns whether the area is that of x0, y0, x1, y1 and not that of x, y, width, height."""
    x0, y0, x1, y1 = sample.bbox
    of_corners, of_coco = (x1 - x0) * (y1 - y0), x1 * y1
    if not sample.area or min(x1 - x0, y1 - y0) <= 0 or abs(of_corners - of_coco) < 0.1 * of_coco:
        return False
    return abs(sample.area - of_corners) <= 0.01 * of_corners


def _is_possible(sample: BoxSample, form: str) -> bool:
    """Returns whether a box in this form has extent and lies in its image."""
    x, y, width, height = convert_bbox(sample.bbox, form, sample.image_hw)
    image_height, image_width = sample.image_hw
    is_inside = min(x, y) >= -_MARGIN and x + width <= image_width + _MARGIN and y + height <= image_height + _MARGIN
    return width > 0 and height > 0 and is_inside
