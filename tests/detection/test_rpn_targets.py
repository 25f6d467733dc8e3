"""Anchors sampled for the RPN: numbered through all levels, right deltas, never a padded one."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.detection.image_anchors import LevelAnchors, make_anchors
from mrcnn_jax.detection.rpn_targets import sample_anchors
from mrcnn_jax.structures import GroundTruth
from tests import oracles, tiny

CONFIG = replace(tiny.TARGETS, rpn_samples=16)
jitted_sample = jax.jit(partial(sample_anchors, targets_config=CONFIG))


def make_truth(boxes, valid=None) -> GroundTruth:
    boxes = jnp.asarray(boxes, jnp.float32).reshape(-1, 4)
    valid = jnp.ones(len(boxes), bool) if valid is None else jnp.asarray(valid)
    masks = jnp.ones((len(boxes), 4, 4), jnp.uint8)
    return GroundTruth(boxes, jnp.ones(len(boxes), jnp.int32), masks, valid)


def tiny_anchors(image_hw=(64, 64)) -> list[LevelAnchors]:
    # Squares only: with whole numbers float32 finds the ties of the low-quality rule that float64 finds.
    return make_anchors((64, 64), jnp.asarray(image_hw), replace(tiny.MODEL, anchor_ratios=(1.0,)))


def test_golden():
    # Level 0 holds a far anchor and one that is the object's box, level 1 one that is shifted and larger.
    levels = [
        LevelAnchors(jnp.array([[50.0, 50, 60, 60], [10, 10, 20, 20]]), jnp.array([True, True])),
        LevelAnchors(jnp.array([[11.0, 9, 21, 20], [0, 0, 4, 4]]), jnp.array([True, False])),
    ]
    targets = sample_anchors(levels, make_truth([[10, 10, 20, 20]]), targets_config=CONFIG, key=jax.random.key(0))
    valid = np.asarray(targets.valid)
    assert valid.tolist() == [True] * 3 + [False] * 13  # the padded anchor is not sampled
    foreground = np.asarray(targets.anchor_index)[np.asarray(targets.is_foreground)]
    assert sorted(foreground) == [1, 2] and targets.anchor_index[2] == 0
    deltas = dict(zip(foreground.tolist(), np.asarray(targets.deltas)[:2].tolist(), strict=True))
    np.testing.assert_allclose(deltas[1], [0, 0, 0, 0], atol=1e-6)
    # Centres (15, 15) and (16, 14.5), sides 10 x 10 and 10 x 11.
    np.testing.assert_allclose(deltas[2], [-0.1, 0.5 / 11, 0, np.log(10 / 11)], atol=1e-6)
    np.testing.assert_array_equal(targets.deltas[2:], np.zeros((14, 4)))


def test_sampled_anchors_are_what_they_say():
    rng, checked = np.random.default_rng(0), 0
    for seed in range(5):
        corners = rng.integers(0, 40, (3, 2))
        truth = make_truth(np.concatenate([corners, corners + rng.integers(6, 24, (3, 2))], axis=1))
        anchors = tiny_anchors()
        targets = jitted_sample(anchors, truth, key=jax.random.key(seed))
        boxes = np.concatenate([level.boxes for level in anchors])
        iou = oracles.iou_matrix(boxes, truth.boxes)
        states, objects = oracles.match(iou, 0.7, 0.3, low_quality=True)
        num_foreground = min(states.count(2), 8)
        assert targets.valid.all() and targets.is_foreground.sum() == num_foreground
        for slot, index in enumerate(np.asarray(targets.anchor_index)):
            assert states[index] == (2 if targets.is_foreground[slot] else 1)
            if targets.is_foreground[slot]:
                expected = oracles.encode_box(truth.boxes[objects[index]], boxes[index], (1, 1, 1, 1))
                np.testing.assert_allclose(targets.deltas[slot], expected, atol=1e-4)
                checked += 1
            else:
                assert not np.asarray(targets.deltas[slot]).any()
    assert checked >= 15


def test_padded_anchors_are_never_sampled():
    anchors = tiny_anchors((30, 20))
    valid = np.concatenate([level.valid for level in anchors])
    truth = make_truth([[2, 2, 12, 12], [40, 40, 60, 60]])  # the second lies where only padding is
    for seed in range(5):
        targets = jitted_sample(anchors, truth, key=jax.random.key(seed))
        assert valid[np.asarray(targets.anchor_index)[np.asarray(targets.valid)]].all()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 30.0])
def test_invalid_objects_change_nothing(garbage):
    truth = make_truth([[5, 5, 25, 25], [0, 0, 0, 0]], [True, False])
    spoiled = make_truth([[5, 5, 25, 25], [garbage] * 4], [True, False])
    expected = jitted_sample(tiny_anchors(), truth, key=jax.random.key(3))
    produced = jitted_sample(tiny_anchors(), spoiled, key=jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, produced, expected)


def test_without_objects_all_are_background():
    targets = jitted_sample(tiny_anchors(), make_truth(np.zeros((2, 4)), [False, False]), key=jax.random.key(0))
    assert targets.valid.all() and not targets.is_foreground.any() and not np.asarray(targets.deltas).any()
    nothing = jitted_sample(tiny_anchors((0, 0)), make_truth(np.zeros((2, 4)), [False, False]), key=jax.random.key(0))
    assert not nothing.valid.any() and not nothing.is_foreground.any()
