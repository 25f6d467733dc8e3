"""The form of a file's boxes and the unit of its polygons are found from all of its objects."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.data.box_forms import COCO_FORM, FORMS, NO_FORM, BoxSample, convert_bbox, find_form
from mrcnn_jax.data.file_form import find_file_form
from mrcnn_jax.data.read_object import read_object

BOXES = [(5.0, 10.0, 20.0, 15.0), (35.0, 28.0, 12.0, 30.0), (60.0, 3.0, 30.0, 9.0), (2.0, 70.0, 40.0, 20.0)]
IN_FORM: dict[str, Callable[..., list[float]]] = {  # by hand, the inverse of what is tested
    "x, y, width, height": lambda x, y, w, h: [x, y, w, h],
    "x0, y0, x1, y1": lambda x, y, w, h: [x, y, x + w, y + h],
    "y, x, height, width": lambda x, y, w, h: [y, x, h, w],
    "y0, x0, y1, x1": lambda x, y, w, h: [y, x, y + h, x + w],
    "centre x, centre y, width, height": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    "x, y, width, height, y from the bottom": lambda x, y, w, h: [x, 100 - y - h, w, h],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_boxes_is_found_from_masks(form: str) -> None:
    image_hw = (100, 140)
    name = form.removesuffix(" as shares of the image").removesuffix(" in percent of the image")
    unit = 1 if "shares" in form else 100 if "percent" in form else 0
    samples = []
    for box in BOXES:
        x, y, w, h = (unit * side / (140, 100)[i % 2] for i, side in enumerate(box)) if unit else box
        first, second, third, fourth = IN_FORM[name](x, y, w, h)
        samples.append(BoxSample((first, second, third, fourth), box, image_hw))
    assert find_form(samples) == form
    for sample, box in zip(samples, BOXES, strict=True):
        np.testing.assert_allclose(convert_bbox(sample.bbox, form, image_hw), box, atol=1e-9)
    broken = BoxSample((90.0, 90.0, 1.0, 1.0), BOXES[0], image_hw)
    assert find_form([*samples, *samples, broken]) == form  # one wrong box changes nothing


def test_without_masks_areas_or_many_boxes_prove_corners() -> None:
    image_hw = (100, 140)
    inside = [(5, 10, 25, 25), (10, 8, 40, 30), (3, 20, 30, 45), (20, 20, 50, 60)]  # as widths and heights, inside, too
    with_areas = [BoxSample(b, None, image_hw, (b[2] - b[0]) * (b[3] - b[1])) for b in inside]
    assert find_form(with_areas) == "x0, y0, x1, y1"
    assert find_form([BoxSample(b, None, image_hw, b[2] * b[3]) for b in inside]) == COCO_FORM
    many = [*inside, *inside, (60, 40, 120, 90)]  # the last one leaves the image as width and height
    assert find_form([BoxSample(b, None, image_hw) for b in many]) == "x0, y0, x1, y1"


def test_images_prove_the_order_of_corners() -> None:
    wide, high = (100, 300), (300, 100)
    y_first = [(y, x, y + h, x + w) for x, y, w, h in ((40, 5, 90, 40), (150, 20, 100, 70), (210, 8, 80, 30))]
    samples = [BoxSample(b, None, wide, (b[2] - b[0]) * (b[3] - b[1])) for b in y_first]
    assert find_form(samples) == "y0, x0, y1, x1"
    in_both = [BoxSample(sample.bbox, None, (300, 300), sample.area) for sample in samples]
    assert find_form(in_both) == "x0, y0, x1, y1"
    assert find_form([BoxSample(sample.bbox, None, high, sample.area) for sample in samples]) == "x0, y0, x1, y1"


def outline(x: float, y: float, w: float, h: float, *, y_first: bool) -> list[float]:
    points = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    return [side for point in points for side in (point[::-1] if y_first else point)]


PLACES = [(5, 10, 90, 60), (150, 20, 100, 70), (210, 8, 80, 30), (190, 40, 100, 50)]  # in 100 x 300: three need x first


@pytest.mark.parametrize("box_form", ["x, y, width, height", "y, x, height, width"])
def test_polygons_of_y_and_x_are_proved_by_images(box_form: str) -> None:
    objects = [
        ({"bbox": IN_FORM[box_form](*place), "segmentation": [outline(*place, y_first=True)]}, (100, 300))
        for place in PLACES
    ]
    form, notes = find_file_form(objects, {})
    assert (form.y_first, form.box_form, notes) == (True, box_form, [])
    for place, (annotation, image_hw) in zip(PLACES, objects, strict=True):
        read = read_object(annotation | {"category_id": 1}, image_hw, form)
        assert (
            read.annotation is not None and "points of the segmentation are y, x, as the images prove" in read.repairs
        )
        assert read.annotation["segmentation"] == [outline(*place, y_first=False)]
        assert list(read.annotation["bbox"]) == list(place)


@pytest.mark.parametrize(
    "further",
    [
        (outline(-9, 5, 50, 40, y_first=True), (100, 300)),  # outside either way: the images were cropped
        (outline(150, 5, 50, 40, y_first=False), (100, 300)),  # as y, x it would be outside
        (outline(5, 280, 50, 40, y_first=False), (400, 300)),
    ],
)
def test_polygons_stay_as_they_are_if_one_is_outside_as_y_x(further: tuple[list[float], tuple[int, int]]) -> None:
    places = [({"bbox": [0, 0, 1, 1], "segmentation": [outline(*place, y_first=True)]}, (100, 300)) for place in PLACES]
    polygon, image_hw = further
    assert find_file_form(places, {})[0].y_first
    assert not find_file_form(places[:3], {})[0].y_first  # two beyond their images prove too little
    assert not find_file_form([*places, ({"segmentation": [polygon]}, image_hw)], {})[0].y_first


def test_keypoints_in_percent_are_proved_by_boxes() -> None:
    annotation = {
        "bbox": [120, 80, 60, 60],
        "keypoints": [50, 55, 2, 45, 50, 1],
    }  # of 300 x 200: (150, 110), (135, 100)
    assert find_file_form([(annotation, (200, 300))] * 3, {})[0].keypoint_unit == 100
    in_pixels = annotation | {"bbox": [40, 45, 20, 20]}
    assert find_file_form([(in_pixels, (200, 300))] * 3, {})[0].keypoint_unit == 0


def test_without_masks_a_form_is_named_only_if_no_other_is_possible() -> None:
    image_hw = (100, 140)
    corners = [(x, y, x + w, y + h) for x, y, w, h in BOXES]
    assert find_form([BoxSample(bbox, None, image_hw) for bbox in BOXES]) == COCO_FORM
    assert find_form([BoxSample(bbox, None, image_hw) for bbox in corners]) == "x0, y0, x1, y1"
    assert find_form([BoxSample(bbox, None, image_hw) for bbox in corners[:2]]) == COCO_FORM  # too few to tell
    assert find_form([]) == COCO_FORM


SCALED = [[x * 100 / 300, y * 100 / 200] for x, y in ((30, 40), (90, 40), (90, 120), (30, 120))]


def make_file(
    bbox: list[float], polygon: list[list[float]], area: float | None = None
) -> list[tuple[dict[str, Any], tuple[int, int]]]:
    annotation = {"bbox": bbox, "segmentation": [[side for point in polygon for side in point]], "area": area}
    return [(annotation, (200, 300))] * 5


@pytest.mark.parametrize(
    ("bbox", "area", "unit", "form"),
    [
        ([30, 40, 60, 80], None, 100, COCO_FORM),
        ([10, 20, 20, 40], None, 0, COCO_FORM),  # the same numbers may be pixels
        ([10, 20, 20, 40], 4800, 100, "x, y, width, height in percent of the image"),  # but this is no area of theirs
        ([10, 20, 20, 40], 800, 0, COCO_FORM),
        ([200, 150, 5, 5], None, 0, NO_FORM),
    ],
)
def test_percent_is_proved_by_boxes_or_areas(bbox: list[float], area: float | None, unit: float, form: str) -> None:
    found, notes = find_file_form(make_file(bbox, SCALED, area), {})
    assert (found.mask_unit, found.box_form) == (unit, form)
    assert bool(notes) == (form == NO_FORM)


def test_objects_beyond_their_images_are_said() -> None:
    objects = make_file([100, 40, 500, 80], [[100, 40], [600, 40], [600, 120], [100, 120]])
    _, (*_, note) = find_file_form(objects, {})
    assert "reach beyond their images by a factor of about 2.0" in note
