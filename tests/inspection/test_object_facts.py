"""Boxes, areas and extents of masks, and objects that lie on each other, by hand."""

from typing import Any

import numpy as np

from mrcnn_jax.data.bitmaps import encode_mask
from mrcnn_jax.data.dataset import ObjectRecord
from mrcnn_jax.inspection.object_facts import measure_objects, paired_ious

SQUARE = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]
TRIANGLE = [[10.0, 10.0, 30.0, 10.0, 10.0, 30.0]]
OTHER_TRIANGLE = [[30.0, 30.0, 10.0, 30.0, 30.0, 10.0]]


def item(segmentation: Any = None, bbox: Any = (10.0, 10.0, 20.0, 20.0), **changes: Any) -> ObjectRecord:
    fields = {"id": 7, "label": 1, "bbox": bbox, "area": 400.0, "is_crowd": False, "segmentation": segmentation}
    return ObjectRecord(**(fields | changes))


def test_extents_and_areas() -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[5:9, 20:40] = 1
    facts = measure_objects(
        [item(SQUARE), item(TRIANGLE), item(encode_mask(mask)), item(bbox=(40.0, 30.0, 20.0, 20.0))], (40, 50)
    )
    np.testing.assert_array_equal(facts.mask_areas[:3], [400, 200, 80])
    np.testing.assert_array_equal(facts.mask_boxes[:3], [[10, 10, 30, 30], [10, 10, 30, 30], [20, 5, 40, 9]])
    assert np.isnan(facts.mask_areas[3]) and np.isnan(facts.mask_boxes[3]).all()
    np.testing.assert_array_equal(facts.is_rectangle, [True, False, True, False])
    np.testing.assert_allclose(facts.boxes[3], [40, 30, 50, 40])
    np.testing.assert_allclose(facts.outside, [0, 0, 0, 0.75])


def test_objects_are_the_same_if_their_masks_are() -> None:
    def same(*objects: ObjectRecord) -> tuple[tuple[int, int], ...]:
        return measure_objects(objects, (40, 50)).same

    assert same(item(SQUARE), item(SQUARE)) == ((0, 1),)
    assert same(item(TRIANGLE), item(OTHER_TRIANGLE)) == ()  # the same box
    assert same(item(SQUARE), item(TRIANGLE)) == ()
    assert same(item(), item(SQUARE)) == ((0, 1),)
    assert same(item(SQUARE), item(SQUARE, is_crowd=True)) == ()
    assert same(item(), item(bbox=(11.0, 10.0, 20.0, 20.0)), item(bbox=(20.0, 10.0, 20.0, 20.0))) == ((0, 1),)
    assert same() == ()


def test_ious_of_pairs() -> None:
    a, b = np.array([[0.0, 0, 2, 2], [0, 0, 0, 0]]), np.array([[1.0, 0, 3, 2], [0, 0, 0, 0]])
    np.testing.assert_allclose(paired_ious(a, b), [1 / 3, 0])
    assert np.isnan(paired_ious(a, np.full((2, 4), np.nan))).all()
