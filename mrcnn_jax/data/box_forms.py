"""The form of a file's boxes. COCO's is x, y, width, height in pixels; others are corners, centres and shares."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.segmentations import BBox, bbox_iou

COCO_FORM = "x, y, width, height"

_CORNERS: dict[str, Callable[[BBox], BBox]] = {
    COCO_FORM: lambda b: b,
    "x0, y0, x1, y1": lambda b: (b[0], b[1], b[2] - b[0], b[3] - b[1]),
    "y, x, height, width": lambda b: (b[1], b[0], b[3], b[2]),
    "y0, x0, y1, x1": lambda b: (b[1], b[0], b[3] - b[1], b[2] - b[0]),
    "centre x, centre y, width, height": lambda b: (b[0] - b[2] / 2, b[1] - b[3] / 2, b[2], b[3]),
}
_RELATIVE = " as shares of the image"
FORMS = (*_CORNERS, *(name + _RELATIVE for name in _CORNERS))
"""Names of the forms."""

_AGREES = 0.9  # IoU of a box in the right form with its mask's box
_SHARE = 0.8  # of the boxes must agree with one form to name it
_MIN_BOXES = 3  # without masks, to name a form
_MARGIN = 1.0  # pixels by which boxes may extend beyond the image


@dataclass(frozen=True)
class BoxSample:
    """A box as the file has it, with what is known about its object."""

    bbox: BBox  # four finite numbers
    of_mask: BBox | None  # x, y, width, height of the object's mask
    image_hw: ImageHW


def convert_bbox(bbox: BBox, form: str, image_hw: ImageHW) -> BBox:
    """Returns x, y, width, height in pixels of a box in one of FORMS."""
    converted = _CORNERS[form.removesuffix(_RELATIVE)](bbox)
    if not form.endswith(_RELATIVE):
        return converted
    height, width = image_hw
    return converted[0] * width, converted[1] * height, converted[2] * width, converted[3] * height


def find_form(samples: Iterable[BoxSample]) -> str:
    """Returns the form that the boxes of a file have, COCO_FORM unless the masks or the images prove another."""
    samples = list(samples)
    with_masks = [sample for sample in samples if sample.of_mask is not None]
    if with_masks:
        agreements = {form: sum(map(lambda s, f=form: _agrees(s, f), with_masks)) for form in FORMS}  # type: ignore[misc]
        best = max(FORMS, key=lambda form: agreements[form])
        is_proved = agreements[best] > agreements[COCO_FORM] and agreements[best] >= _SHARE * len(with_masks)
        return best if is_proved else COCO_FORM
    if len(samples) < _MIN_BOXES:
        return COCO_FORM
    are_shares = all(0.0 <= side <= 1.0 for sample in samples for side in sample.bbox)
    forms = [form for form in FORMS if form.endswith(_RELATIVE) == are_shares]
    possible = {form: sum(_is_possible(sample, form) for sample in samples) for form in forms}
    if possible[forms[0]] >= _SHARE * len(samples):
        return forms[0]
    complete = [form for form in forms if possible[form] == len(samples)]
    return complete[0] if complete else forms[0]  # FORMS begins with the most usual ones


def _agrees(sample: BoxSample, form: str) -> bool:
    assert sample.of_mask is not None
    return bbox_iou(convert_bbox(sample.bbox, form, sample.image_hw), sample.of_mask) >= _AGREES


def _is_possible(sample: BoxSample, form: str) -> bool:
    """Returns whether a box in this form has extent and lies in its image."""
    x, y, width, height = convert_bbox(sample.bbox, form, sample.image_hw)
    image_height, image_width = sample.image_hw
    is_inside = min(x, y) >= -_MARGIN and x + width <= image_width + _MARGIN and y + height <= image_height + _MARGIN
    return width > 0 and height > 0 and is_inside
