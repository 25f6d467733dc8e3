"""One record to one sample: geometry of boxes, bitmaps and pixels stays together through resize and flip."""

from typing import Any

import numpy as np
import pytest

from mrcnn_jax.config import DataConfig
from mrcnn_jax.data.dataset import ObjectRecord, Record
from mrcnn_jax.data.samples import Sample, choose_objects, make_invalid_sample, make_sample

CANVAS = (64, 96)
CONFIG = DataConfig(canvases=(CANVAS,), short_sides=(60,), max_side=90, max_objects=3, mask_size=20)


def make_object(object_id: int, box: tuple[float, float, float, float], **changes: Any) -> ObjectRecord:
    """A triangle, the lower left half of its box (x, y, width, height)."""
    x, y, width, height = box
    triangle = [[x, y, x + width, y + height, x, y + height]]
    fields = {"label": object_id, "area": width * height / 2, "is_crowd": False, "segmentation": triangle} | changes
    return ObjectRecord(id=object_id, bbox=box, **fields)


def make_record(*objects: ObjectRecord) -> Record:
    """An image of 20 x 30 pixels that is brighter to the right."""
    image = np.broadcast_to(np.linspace(0, 232, 30)[:, None], (20, 30, 3)).astype(np.uint8)
    return Record(1, "a.png", np.ascontiguousarray(image), objects)


def sample_of(record: Record, flip: bool, **changes: Any) -> Sample:
    config = DataConfig(**(vars(CONFIG) | {"flip_probability": float(flip)} | changes))
    return make_sample(record, CANVAS, config, np.random.default_rng(0))


def test_boxes_and_pixels_are_scaled_by_the_recipe() -> None:
    sample = sample_of(make_record(make_object(2, (5, 4, 10, 8))), flip=False)
    assert sample.image.shape == (*CANVAS, 3) and sample.image_hw == (60, 90)
    assert sample.image[60:].max() == 0 and sample.image[:, 90:].max() == 0
    assert sample.image[30, 5, 0] < sample.image[30, 85, 0]
    truth = sample.ground_truth
    np.testing.assert_array_equal(truth.boxes, [[15, 12, 45, 36], [0] * 4, [0] * 4])
    assert truth.labels.tolist() == [2, 0, 0] and truth.valid.tolist() == [True, False, False]
    assert truth.masks[0][18, 1] == 1 and truth.masks[0][1, 18] == 0 and truth.masks[1:].max() == 0
    assert abs(truth.masks[0].mean() - 0.5) < 0.05
    dtypes = [truth.boxes.dtype, truth.labels.dtype, truth.masks.dtype, truth.valid.dtype, sample.image.dtype]
    assert dtypes == [np.float32, np.int32, np.uint8, np.bool_, np.uint8]


def test_flip_mirrors_pixels_boxes_and_bitmaps() -> None:
    record = make_record(make_object(1, (5, 4, 10, 8)), make_object(2, (20, 0, 10, 20)))
    plain, flipped = sample_of(record, flip=False), sample_of(record, flip=True)
    np.testing.assert_array_equal(flipped.image[:60, :90], plain.image[:60, 89::-1])
    np.testing.assert_array_equal(flipped.ground_truth.boxes[:2], [[45, 12, 75, 36], [0, 0, 30, 60]])
    np.testing.assert_array_equal(flipped.ground_truth.masks, plain.ground_truth.masks[..., ::-1])


def test_boxes_are_clipped_and_bitmaps_follow() -> None:
    sample = sample_of(make_record(make_object(1, (-10, 0, 20, 20))), flip=False)
    np.testing.assert_array_equal(sample.ground_truth.boxes[0], [0, 0, 30, 60])
    # The right half of the triangle: below the diagonal from the middle of the left side.
    assert sample.ground_truth.masks[0][[8, 12, 18], [1, 1, 15]].tolist() == [0, 1, 1]


def test_crowds_are_left_out() -> None:
    sample = sample_of(make_record(make_object(1, (5, 4, 10, 8), is_crowd=True)), flip=False)
    assert not sample.ground_truth.valid.any() and sample.num_dropped == 0


def test_the_largest_objects_are_kept_in_their_order() -> None:
    objects = [make_object(i, (0, 0, 5, 5), area=area) for i, area in enumerate([4.0, 9.0, 4.0, 9.0, 1.0])]
    assert [item.id for item in choose_objects(objects, 3)] == [0, 1, 3]
    assert [item.id for item in choose_objects(objects, 9)] == [0, 1, 2, 3, 4]
    sample = sample_of(make_record(*objects), flip=False)
    assert sample.ground_truth.labels.tolist() == [0, 1, 3] and sample.num_dropped == 2


def test_random_choices_come_from_the_generator_alone() -> None:
    config = DataConfig(**(vars(CONFIG) | {"short_sides": (30, 40, 50, 60)}))
    record = make_record(make_object(1, (5, 4, 10, 8)))
    outcomes = [make_sample(record, CANVAS, config, np.random.default_rng(seed)) for seed in [*range(40), 3]]
    assert {sample.image_hw for sample in outcomes} == {(30, 45), (40, 60), (50, 75), (60, 90)}
    assert 8 < sum(sample.image[10, 0, 0] > 100 for sample in outcomes) < 32  # flipped ones
    np.testing.assert_array_equal(outcomes[3].image, outcomes[40].image)


@pytest.mark.parametrize("num_objects", [0, 3])
def test_capacity_is_static(num_objects: int) -> None:
    sample = sample_of(make_record(*[make_object(i + 1, (1, 1, 9, 9)) for i in range(num_objects)]), flip=False)
    invalid = make_invalid_sample(CANVAS, CONFIG)
    assert invalid.image_hw == (0, 0) and invalid.image.max() == 0 and not invalid.ground_truth.valid.any()
    for name in ("boxes", "labels", "masks", "valid"):
        assert getattr(sample.ground_truth, name).shape == getattr(invalid.ground_truth, name).shape
    assert sample.ground_truth.valid.sum() == num_objects
