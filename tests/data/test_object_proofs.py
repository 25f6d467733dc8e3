"""Where a mask, box or area proves what another field of its object means, it is read so, and elsewhere it is not."""

from collections.abc import Callable
from typing import Any

import numpy as np

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
