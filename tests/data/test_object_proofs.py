"""Where a mask, box or area proves what another field of its object means, it is read so, and elsewhere it is not."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from mrcnn_jax.data.bitmaps import decode_mask
from mrcnn_jax.data.read_object import FileForm, read_object

IMAGE_HW = (24, 32)
FORM = FileForm({7: 2})
MASK = np.zeros(IMAGE_HW, np.uint8)
MASK[6:16, 4:14] = 1  # the square of `one_object`


def test_run_lengths_without_their_first_run(one_object: Callable[..., dict[str, Any]]) -> None:
    mask = np.zeros(IMAGE_HW, np.uint8)
    mask[:10, :12] = 1
    counts = [10, 14] * 11 + [10, 24 * 32 - 12 * 24 + 14]  # no zeros precede the pixel (0, 0)
    given = one_object(segmentation={"size": [24, 32], "counts": counts}, bbox=[0, 0, 12, 10])
    read = read_object(given, IMAGE_HW, FORM)
    assert read.annotation is not None and read.repairs == [
        "first run of the run lengths is missing, as the box proves"
    ]
    np.testing.assert_array_equal(decode_mask(read.annotation["segmentation"], IMAGE_HW), mask)


def test_corners_out_of_order_are_put_in_order_only_if_the_area_proves_it(one_object: Callable[..., Any]) -> None:
    bow_tie = [[4, 6, 14, 16, 14, 6, 4, 16]]
    for area, repairs in ((100, ["corners are out of order, as the area proves"]), (50, []), (None, [])):
        read = read_object(one_object(segmentation=bow_tie, area=area), IMAGE_HW, FORM)
        assert read.annotation is not None and read.repairs == repairs
        is_square = np.array_equal(decode_mask(read.annotation["segmentation"], IMAGE_HW), MASK)
        assert is_square == bool(repairs)
    u_shape = [[4, 6, 7, 6, 7, 13, 11, 13, 11, 6, 14, 6, 14, 16, 4, 16]]  # crosses nothing; its area is that of its box
    assert read_object(one_object(segmentation=u_shape, area=100), IMAGE_HW, FORM).repairs == []


def test_rectangles_that_are_turned_by_an_attribute(one_object: Callable[..., dict[str, Any]]) -> None:
    for angle, expected in ((90.0, [6, 4, 6, 14]), (0.0, [2, 8, 14, 6]), (180, [2, 8, 14, 6])):
        given = one_object(segmentation=[], bbox=[2, 8, 14, 6], attributes={"rotation": angle})
        read = read_object(given, IMAGE_HW, FORM)
        assert read.annotation is not None
        np.testing.assert_allclose(read.annotation["bbox"], expected, atol=1e-9)
        assert bool(read.repairs) == (angle == 90.0)


def test_a_box_in_another_form_gives_way_to_its_mask(one_object: Callable[..., dict[str, Any]]) -> None:
    near = one_object(bbox=[1, 1, 13, 12], segmentation=[[1, 1, 13, 1, 13, 12, 1, 12]])  # IoU 0.85 as it is
    read = read_object(near, IMAGE_HW, FORM)
    assert read.annotation is not None and read.annotation["bbox"] == [1, 1, 12, 11] and read.repairs


def test_the_area_proves_a_hole(one_object: Callable[..., dict[str, Any]]) -> None:
    parts = [[4, 6, 14, 6, 14, 16, 4, 16], [7, 9, 11, 9, 11, 13, 7, 13]]
    with_hole = MASK.copy()
    with_hole[9:13, 7:11] = 0
    for area, expected in ((84, with_hole), (100, MASK), (None, MASK)):
        read = read_object(one_object(segmentation=parts, area=area), IMAGE_HW, FORM)
        assert read.annotation is not None
        np.testing.assert_array_equal(decode_mask(read.annotation["segmentation"], IMAGE_HW), expected)
        assert read.annotation["area"] == expected.sum()


@pytest.mark.parametrize(("width", "hole"), [(12, 6), (24, 12), (36, 26), (48, 40)])
def test_the_area_proves_a_hole_of_an_outline_through_pixel_centres(
    one_object: Callable[..., dict[str, Any]], width: int, hole: int
) -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[4 : 4 + width, 5 : 5 + width] = 1
    rim = (width - hole) // 2
    mask[4 + rim : 4 + rim + hole, 5 + rim : 5 + rim + hole] = 0
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts = [contour.ravel().tolist() for contour in contours]
    given = one_object(segmentation=parts, area=int(mask.sum()), bbox=[5, 4, width, width])
    read = read_object(given, (60, 60), FORM)
    assert read.annotation is not None and read.repairs == ["the area proves a hole, which is cut out"]
    inside = decode_mask(read.annotation["segmentation"], (60, 60))
    near = np.ones((3, 3), np.uint8)  # outlines are inexact by a pixel along the rim
    assert not (inside & (1 - cv2.dilate(mask, near))).any() and not (cv2.erode(mask, near) & (1 - inside)).any()
    of_union = given | {"area": width * width}
    assert read_object(of_union, (60, 60), FORM).repairs == []
