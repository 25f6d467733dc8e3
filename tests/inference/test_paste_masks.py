"""Pasted masks against bilinear sampling written out pixel by pixel, and run-length codes against pycocotools'."""

import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_jax.inference.paste_masks import encode_masks, paste_masks, paste_window


def sample_by_hand(mask, box, image_hw):
    """Probability of every pixel, in float64: bilinear among the four nearest cell centres, zero beyond the grid."""
    m = len(mask)
    x0, y0, x1, y1 = box
    probabilities = np.zeros(image_hw)
    for row in range(image_hw[0]):
        for column in range(image_hw[1]):
            v = (row + 0.5 - y0) / (y1 - y0) * m - 0.5
            u = (column + 0.5 - x0) / (x1 - x0) * m - 0.5
            i, j = math.floor(v), math.floor(u)
            for cell_y, weight_y in ((i, 1 - (v - i)), (i + 1, v - i)):
                for cell_x, weight_x in ((j, 1 - (u - j)), (j + 1, u - j)):
                    if 0 <= cell_y < m and 0 <= cell_x < m:
                        probabilities[row, column] += weight_y * weight_x * mask[cell_y, cell_x]
    return probabilities


BOXES = np.array(
    [
        [3.2, 4.7, 19.9, 17.1],
        [-6.5, -3.0, 12.0, 40.0],
        [0.0, 0.0, 31.0, 23.0],
        [10.3, 5.1, 10.9, 22.0],
        [25.0, 20.0, 60.0, 50.0],
        [7.0, 7.0, 8.0, 8.0],
        [40.0, 3.0, 50.0, 9.0],
        [5.0, 5.0, 5.0, 9.0],
    ],
    np.float32,
)


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_masks_equal_sampling_by_hand(threshold):
    masks = np.random.default_rng(0).random((len(BOXES), 7, 7), np.float32)
    pasted = paste_masks(masks, BOXES, (23, 31), threshold)
    assert pasted.shape == (8, 23, 31) and pasted.dtype == bool
    for mask, box, ours in zip(masks[:6], BOXES[:6], pasted[:6], strict=True):
        expected = sample_by_hand(mask, box.astype(np.float64), (23, 31))
        sure = np.abs(expected - threshold) > 1e-5  # float32 against float64 may differ on the threshold itself
        np.testing.assert_array_equal(ours[sure], (expected >= threshold)[sure])
        assert sure.mean() > 0.99
    assert not pasted[6:].any()  # outside the image; without area


def test_a_full_mask_covers_the_pixels_whose_centre_is_in_the_box():
    y, x = np.mgrid[:30, :40] + 0.5  # at up to 2 pixels a cell; corners of larger boxes are rounded
    for x0, y0, x1, y1 in ([3.2, 4.7, 19.9, 17.8], [0.0, 0.0, 40.0, 30.0], [-7.3, 2.2, 12.8, 55.0]):
        pasted = paste_masks(np.ones((1, 28, 28)), np.array([[x0, y0, x1, y1]]), (30, 40), 0.5)[0]
        np.testing.assert_array_equal(pasted, (x > x0) & (x < x1) & (y > y0) & (y < y1))


def test_work_is_bounded_by_the_box():
    window, place = paste_window(np.ones((28, 28)), np.array([500.2, 700.5, 510.0, 720.0]), (1000, 2000), 0.5)
    assert window.shape == (20, 10) and place == (700, 720, 500, 510)
    window, _ = paste_window(np.ones((28, 28)), np.array([-1e7, -1e7, 1e7, 1e7]), (10, 20), 0.5)
    assert window.shape == (10, 20)


def test_codes_equal_pycocotools_on_the_pasted_masks():
    rng = np.random.default_rng(1)
    corners = rng.uniform(-5, 50, (60, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
    boxes = np.concatenate([boxes, BOXES, [[0, 0, 44, 37]]])
    masks = rng.random((len(boxes), 14, 14), np.float32)
    masks[-1] = 1.0
    masks[0] = 0.0
    codes = encode_masks(masks, boxes, (37, 44), 0.5)
    for pasted, code in zip(paste_masks(masks, boxes, (37, 44), 0.5), codes, strict=True):
        expected = coco_mask.encode(np.asfortranarray(pasted.astype(np.uint8)))
        assert code == {"size": [37, 44], "counts": expected["counts"].decode()}


def test_no_detections_give_no_masks():
    masks, boxes = np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32)
    assert paste_masks(masks, boxes, (5, 6), 0.5).shape == (0, 5, 6)
    assert encode_masks(masks, boxes, (5, 6), 0.5) == []
