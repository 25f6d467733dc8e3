"""From the network's pixels back to the image's, and the valid rows only."""

from dataclasses import replace

import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import NumericalError
from mrcnn_jax.inference.postprocessing import restore_detections
from mrcnn_jax.structures import Detections

CATEGORIES = (Category(4, "disc"), Category(9, "bar"))


def device_detections(boxes, labels, valid=None, mask_value=1.0):
    count = len(boxes)
    return Detections(
        boxes=np.array(boxes, np.float32),
        scores=np.linspace(0.9, 0.1, count, dtype=np.float32),
        labels=np.array(labels, np.int32),
        masks=np.full((count, 28, 28), mask_value, np.float32),
        heat_maps=np.zeros((count, 0, 0, 0), np.float32),
        valid=np.ones(count, bool) if valid is None else np.array(valid),
    )


def restore(detections, resized_hw=(100, 200), image_hw=(50, 400)):
    return restore_detections(detections, resized_hw, image_hw, categories=CATEGORIES, test_config=TestConfig())


def test_boxes_scale_by_axis_and_labels_become_category_ids():
    found = restore(device_detections([[10, 20, 30, 40], [0, 0, 200, 100]], [2, 1]))
    np.testing.assert_allclose(found.boxes, [[20, 10, 60, 20], [0, 0, 400, 50]])
    assert found.boxes.dtype == np.float32
    assert found.labels.tolist() == [9, 4] and found.category_names == ["bar", "disc"]
    assert found.keypoints.shape == (2, 0, 3) and len(found) == 2
    expected = np.zeros((50, 400), bool)
    expected[10:20, 20:60] = True
    np.testing.assert_array_equal(found.masks[0], expected)
    assert found.masks[1].mean() > 0.99  # bilinear sampling rounds the corners of a large box


def test_boxes_are_clipped_and_empty_ones_dropped():
    boxes = [[-5, -5, 20, 20], [300, 10, 400, 20], [10, 10, 10, 30], [150, 90, 250, 150]]
    found = restore(device_detections(boxes, [1, 1, 2, 2]))
    np.testing.assert_allclose(found.boxes, [[0, 0, 40, 10], [300, 45, 400, 50]])
    np.testing.assert_allclose(found.scores, [0.9, 0.1])
    assert found.mask_probabilities.shape == (2, 28, 28)


def test_invalid_rows_do_not_matter():
    boxes, labels = [[10, 20, 30, 40], [np.nan, 0, 9, 9], [1, 1, 9, 9]], [2, 99, -7]
    found = restore(device_detections(boxes, labels, valid=[True, False, False]))
    assert found.labels.tolist() == [9]
    nothing = restore(device_detections(boxes, labels, valid=[False] * 3))
    with_keypoints = replace(device_detections(boxes, labels, [False] * 3), heat_maps=np.zeros((3, 2, 8, 8)))
    assert restore(with_keypoints).keypoints.shape == (0, 2, 3) and restore(with_keypoints).coco_results(1) == []
    assert len(nothing) == 0 and nothing.masks.shape == (0, 50, 400) and nothing.coco_results(1) == []


def test_values_that_are_not_finite_are_an_error():
    with pytest.raises(NumericalError, match="not finite"):
        restore(device_detections([[10, 20, np.inf, 40]], [1]))
    with pytest.raises(NumericalError, match="not finite"):
        restore(device_detections([[10, 20, 30, 40]], [1], mask_value=np.nan))


def test_marks_are_an_error_with_or_without_detections():
    message = r"^Image street\.jpg: the RPN computed values that are not finite \(NaN or infinity\)\. "
    for valid in (None, [False]):
        found = device_detections([[10, 20, 30, 40]], [1], valid)
        restore(replace(found, not_finite=np.int32(0)))
        marked = replace(found, not_finite=np.int32(0b10100))
        with pytest.raises(NumericalError, match=message):
            restore_detections(
                marked, (9, 9), (9, 9), categories=CATEGORIES, test_config=TestConfig(), name=lambda: "street.jpg"
            )
        with pytest.raises(NumericalError, match="An image: the RPN"):
            restore(marked)


def test_coco_results_say_the_same_as_the_arrays():
    found = restore(device_detections([[10, 20, 30, 40], [0, 0, 200, 100]], [2, 1]))
    first, second = found.coco_results(77)
    assert first | {"segmentation": None} == {
        "image_id": 77,
        "category_id": 9,
        "bbox": [20.0, 10.0, 40.0, 10.0],
        "score": pytest.approx(0.9),
        "segmentation": None,
    }
    assert first["segmentation"]["size"] == [50, 400] and isinstance(first["segmentation"]["counts"], str)
    assert second["category_id"] == 4
    selected = found.select(found.scores >= 0.5)
    assert selected.coco_results(77) == [first] and selected.masks.shape == (1, 50, 400)
