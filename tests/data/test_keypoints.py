"""Keypoints on their way from the annotation file to the device: resized, flipped, named by side."""

from dataclasses import replace

import numpy as np
import pytest

from mrcnn_jax.categories import Category, keypoint_names
from mrcnn_jax.config import DataConfig, ModelConfig
from mrcnn_jax.data.dataset import ObjectRecord, Record
from mrcnn_jax.data.pipeline import training_batches
from mrcnn_jax.data.samples import make_invalid_sample, make_sample
from mrcnn_jax.data.transforms import find_keypoint_flip, flip_keypoints, resize_keypoints
from mrcnn_jax.errors import ConfigError

NAMES = ("nose", "left_eye", "right_eye", "tail")
FLIP = (0, 2, 1, 3)
CONFIG = DataConfig(canvases=((32, 64),), short_sides=(32,), max_side=64, max_objects=3, mask_size=8)


def test_counterparts_are_found_by_name() -> None:
    assert find_keypoint_flip(NAMES) == FLIP
    assert find_keypoint_flip(("left_hand", "hand_right")) == (0, 1)  # no counterpart: itself
    assert find_keypoint_flip(("Left Eye", "Nose", "RIGHT eye")) == (2, 1, 0)
    assert find_keypoint_flip(()) == ()
    assert find_keypoint_flip(("left", "right", "right", "", "")) == (0, 1, 2, 3, 4)  # which of the two is not said


@pytest.mark.parametrize("flip", [(1, 2, 0), (0, 0), (0, 2), (-1, 0), (1, 0, 4)])
def test_a_keypoint_flip_exchanges_pairs(flip: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"model.keypoint_flip: expected indices .* swap keypoints in pairs"):
        ModelConfig(keypoint_flip=flip)


@pytest.mark.parametrize(("flip", "expected"), [((), [8.5, 2.5, 1.5, 0]), ((3, 1, 2, 0), [0, 1.5, 2.5, 8.5])])
def test_the_stream_flips_by_the_config_or_by_name(small_coco, flip: tuple[int, ...], expected: list[float]) -> None:
    small_coco.content["categories"][1]["keypoints"] = list(NAMES)
    points = [23.0, 8, 2, 30.0, 8, 2, 29.0, 9, 1, 0, 0, 0]  # in an image 32 wide
    small_coco.content["annotations"][0]["keypoints"] = points
    dataset = small_coco.prepare()
    config = replace(CONFIG, short_sides=(24,), flip_probability=1.0)
    options = {"batch_size": 3, "seed": 0, "start_step": 0, "num_steps": 1}
    batches = training_batches(dataset, config, keypoint_flip=flip, **options)
    batch = next(batches)
    (found,) = batch.ground_truth.keypoints[batch.image_id == 42, 0, :, 0]
    np.testing.assert_allclose(found, expected)
    with pytest.raises(ConfigError, match="expected 4 indices, got 2"):
        training_batches(dataset, config, keypoint_flip=(1, 0), **options)


def test_pixels_become_points_and_hidden_ones_zeros() -> None:
    found = resize_keypoints(np.array([[0, 0, 1], [9, 19, 2], [5, 5, 0]]), (20, 10), (40, 30))
    np.testing.assert_allclose(found, [[1.5, 1, 1], [28.5, 39, 2], [0, 0, 0]])


def test_a_flip_exchanges_the_sides_and_two_are_none() -> None:
    keypoints = np.array([[1, 2, 2], [3, 4, 1], [0, 0, 0], [5, 6, 2]], np.float32)
    flipped = flip_keypoints(keypoints, 10, FLIP)
    np.testing.assert_array_equal(flipped, [[9, 2, 2], [0, 0, 0], [7, 4, 1], [5, 6, 2]])
    np.testing.assert_array_equal(flip_keypoints(flipped, 10, FLIP), keypoints)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_samples_carry_them(probability: float) -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    box, polygon = (10.0, 5.0, 20.0, 20.0), [[10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]]
    points = (12.0, 8.0, 2.0, 20.0, 8.0, 1.0, 0.0, 0.0, 0.0, 11.0, 20.0, 2.0)
    animal = ObjectRecord(1, 1, box, 400.0, False, polygon, points)
    thing = ObjectRecord(2, 2, box, 400.0, False, polygon)
    config = DataConfig(**{**vars(CONFIG), "flip_probability": probability})
    sample = make_sample(Record(1, "a", image, (thing, animal)), (32, 64), config, np.random.default_rng(0), FLIP)
    found = sample.ground_truth.keypoints
    assert found is not None and found.shape == (3, 4, 3) and not found[[0, 2]].any()
    straight = np.array([[12.5, 8.5, 2], [20.5, 8.5, 1], [0, 0, 0], [11.5, 20.5, 2]])
    flipped = np.array([[51.5, 8.5, 2], [0, 0, 0], [43.5, 8.5, 1], [52.5, 20.5, 2]])
    np.testing.assert_allclose(found[1], flipped if probability else straight)
    assert make_invalid_sample((32, 64), config, 4).ground_truth.keypoints.shape == (3, 4, 3)
    assert (
        make_sample(Record(1, "a", image, ()), (32, 64), config, np.random.default_rng(0)).ground_truth.keypoints
        is None
    )


def test_categories_have_to_agree() -> None:
    assert keypoint_names((Category(1, "box"), Category(2, "animal", NAMES))) == NAMES
    assert keypoint_names((Category(1, "box"),)) == ()
    with pytest.raises(ValueError, match="same keypoints in all categories"):
        keypoint_names((Category(1, "a", NAMES), Category(2, "b", ("nose",))))
