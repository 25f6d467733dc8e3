"""Crowds and objects that are too small are counted before the first step."""

from dataclasses import replace

import numpy as np

from mrcnn_jax.data.dataset import ObjectRecord
from mrcnn_jax.training import data_checks
from mrcnn_jax.training.lost_objects import describe_lost_objects
from tests.training.test_data_checks import make_data
from tests.training.test_loop import CONFIG, FakeData

SIZES = replace(CONFIG, data=replace(CONFIG.data, short_sides=(40, 50), max_side=50, canvases=((64, 64),)))


def data_of(*boxes: tuple[float, float, float, float], is_crowd: bool = False) -> FakeData:
    """All boxes in the last of a hundred images of 100 x 100 pixels."""
    objects = tuple(ObjectRecord(index, 1, box, 1.0, is_crowd, None) for index, box in enumerate(boxes))
    return make_data(objects=lambda index: objects if index == 99 else ())


def test_objects_thinner_than_a_cell_are_counted() -> None:
    small = data_of((0, 0, 7.9, 50), (0, 0, 50, 7.9), (0, 0, 8.1, 8.1), (90, 0, 30, 30))
    (line,) = describe_lost_objects(SIZES, small)  # at half their size
    assert "2 of 4 objects are thinner than 4 px when images are resized to 50 px" in line
    larger = replace(SIZES, data=replace(SIZES.data, short_sides=(40, 64), max_side=64))
    assert describe_lost_objects(larger, small) == []
    assert describe_lost_objects(SIZES, data_of()) == []
    assert describe_lost_objects(SIZES, data_of((0, 0, 1, 1), is_crowd=True)) == []


def test_a_sample_is_named_as_one(monkeypatch) -> None:
    monkeypatch.setattr("mrcnn_jax.training.lost_objects.MAX_IMAGES", 10)
    (line,) = describe_lost_objects(SIZES, data_of((0, 0, 1, 1)))
    assert "1 of 1 objects in 10 of 100 images" in line


def test_crowds_are_named_before_training() -> None:
    crowded = make_data(num_crowds=3, num_objects=np.array([1]))
    (line,) = data_checks.check_data(SIZES, crowded, None)[1]
    assert "3 crowds (iscrowd 1) are not learned" in line and "--crowds objects" in line
