"""Resizing recipe, canvases, padding and flips, against values worked out by hand."""

import numpy as np
import pytest

from mrcnn_jax.data.transforms import fit_size, flip_boxes, pad_to_canvas, resize_boxes, resize_image

PAPER = ((800, 1344), (1344, 800))


@pytest.mark.parametrize(
    ("image_hw", "expected_hw", "canvas"),
    [
        ((480, 640), (800, 1067), (800, 1344)),
        ((640, 480), (1067, 800), (1344, 800)),
        ((400, 1000), (533, 1333), (800, 1344)),  # the long side limits
        ((600, 600), (800, 800), (800, 1344)),  # both fit: the first
        ((1, 4000), (1, 1333), (800, 1344)),
        ((1600, 1600), (800, 800), (800, 1344)),
    ],
)
def test_the_papers_recipe(image_hw: tuple[int, int], expected_hw: tuple[int, int], canvas: tuple[int, int]) -> None:
    assert fit_size(image_hw, 800, 1333, PAPER) == (expected_hw, canvas)


def test_the_smallest_canvas_that_fits() -> None:
    canvases = ((512, 512), (256, 320), (320, 256), (320, 320))
    assert fit_size((100, 120), 250, 400, canvases) == ((250, 300), (256, 320))
    assert fit_size((120, 100), 250, 400, canvases) == ((300, 250), (320, 256))
    assert fit_size((100, 150), 250, 400, canvases) == ((250, 375), (512, 512))


def test_without_a_fitting_canvas_the_image_is_scaled_down() -> None:
    canvases = ((128, 256), (160, 160))
    assert fit_size((100, 400), 300, 1200, canvases) == ((64, 256), (128, 256))
    assert fit_size((400, 100), 300, 1200, canvases) == ((160, 40), (160, 160))
    assert fit_size((300, 301), 300, 1200, ((64, 64), (64, 96))) == ((64, 64), (64, 96))


def test_sizes_always_fit_their_canvas_and_stay_positive() -> None:
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 3000, (500, 2)).tolist():
        (new_height, new_width), canvas = fit_size((height, width), 600, 1000, ((608, 1024), (1024, 608), (96, 32)))
        assert 1 <= new_height <= canvas[0] and 1 <= new_width <= canvas[1]


def test_resize_keeps_constant_images_and_averages_when_it_shrinks() -> None:
    image = np.full((40, 30, 3), 77, np.uint8)
    for new_hw in ((40, 30), (80, 61), (13, 9), (1, 1)):
        resized = resize_image(image, new_hw)
        assert resized.shape == (*new_hw, 3) and resized.dtype == np.uint8 and np.unique(resized).tolist() == [77]
    stripes = np.zeros((40, 40, 3), np.uint8)
    stripes[:, ::4] = 200
    assert np.unique(resize_image(stripes, (10, 10))).tolist() == [50]


def test_pad_puts_the_image_into_the_top_left_corner() -> None:
    padded = pad_to_canvas(np.ones((2, 3, 3), np.uint8), (4, 5))
    expected = np.zeros((4, 5, 3), np.uint8)
    expected[:2, :3] = 1
    np.testing.assert_array_equal(padded, expected)
    with pytest.raises(ValueError, match="at most 4x5, got 5x5"):
        pad_to_canvas(np.ones((5, 5, 3), np.uint8), (4, 5))


def test_boxes_follow_their_image() -> None:
    boxes = np.array([[1.0, 2.0, 5.0, 8.0], [0.0, 0.0, 10.0, 20.0]])
    np.testing.assert_array_equal(resize_boxes(boxes, (20, 10), (40, 30)), [[3, 4, 15, 16], [0, 0, 30, 40]])
    flipped = flip_boxes(boxes, 10)
    np.testing.assert_array_equal(flipped, [[5, 2, 9, 8], [0, 0, 10, 20]])
    np.testing.assert_array_equal(flip_boxes(flipped, 10), boxes)
    assert resize_boxes(np.zeros((0, 4)), (20, 10), (40, 30)).shape == (0, 4)
