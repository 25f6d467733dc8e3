"""Matching against a loop over an IoU matrix: thresholds, the low-quality rule, ties, padding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.ops.matching import Match, Matches, match_boxes
from tests import oracles

RPN = {"foreground_iou": 0.7, "background_iou": 0.3, "allow_low_quality": True}
ROI = {"foreground_iou": 0.5, "background_iou": 0.5, "allow_low_quality": False}

jitted_match = jax.jit(match_boxes, static_argnames=tuple(RPN))


def match(boxes, gt_boxes, valid=None, gt_valid=None, rules=RPN) -> Matches:
    boxes, gt_boxes = (jnp.asarray(b, jnp.float32).reshape(-1, 4) for b in (boxes, gt_boxes))
    valid, gt_valid = (
        jnp.ones(len(b), bool) if v is None else jnp.asarray(v) for b, v in ((boxes, valid), (gt_boxes, gt_valid))
    )
    return jitted_match(boxes, valid, gt_boxes, gt_valid, **rules)


def test_golden():
    # One object of 10 x 10. Boxes of the same height and corner: widths 10, 7, 5, 2, and one elsewhere.
    boxes = [[0, 0, 10, 10], [0, 0, 7, 10], [0, 0, 5, 10], [0, 0, 2, 10], [50, 50, 60, 60]]
    matches = match(boxes, [[0, 0, 10, 10]])
    foreground, ignore, background = Match.FOREGROUND, Match.IGNORE, Match.BACKGROUND
    np.testing.assert_array_equal(matches.states, [foreground, foreground, ignore, background, background])
    np.testing.assert_array_equal(match(boxes, [[0, 0, 10, 10]], rules=ROI).states, [2, 2, 2, 1, 1])


def test_low_quality_rule_takes_all_ties_of_the_best():
    # The object overlaps two boxes by a quarter each and a third one less: both of the best become foreground.
    boxes, objects = [[0, 0, 4, 4], [4, 0, 8, 4], [0, 3, 4, 7]], [[2, 0, 6, 4]]
    np.testing.assert_array_equal(match(boxes, objects).states, [2, 2, 1])
    np.testing.assert_array_equal(match(boxes, objects, rules={**RPN, "allow_low_quality": False}).states, [0, 0, 1])


def test_low_quality_match_keeps_its_own_best_object():
    # Box 0 lies best on object 0 and is also all that object 1 has.
    matches = match([[0, 0, 10, 10], [40, 40, 50, 50]], [[0, 0, 10, 9], [8, 8, 12, 30]])
    np.testing.assert_array_equal(matches.states, [2, 1])
    assert matches.matched_gt[0] == 0


def test_low_quality_rule_ignores_objects_that_touch_nothing():
    np.testing.assert_array_equal(match([[0, 0, 4, 4], [9, 9, 12, 12]], [[50, 50, 60, 60]]).states, [1, 1])


def test_ties_between_objects_go_to_the_lowest_slot():
    gt_boxes = np.zeros((40, 4))  # more than one block of slots
    gt_boxes[[3, 5, 37]] = [0, 0, 10, 10]
    assert match([[0, 0, 10, 8]], gt_boxes, gt_valid=gt_boxes.any(axis=1)).matched_gt[0] == 3


def random_case(seed: int, num_boxes: int, num_gt: int):
    # Whole numbers, so that ties and exact thresholds happen and float32 decides them as float64 does.
    rng = np.random.default_rng(seed)
    corners, sides = rng.integers(0, 30, (num_boxes + num_gt, 2)), rng.integers(1, 25, (num_boxes + num_gt, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    return boxes[:num_boxes], boxes[num_boxes:], rng.random(num_boxes) < 0.8, rng.random(num_gt) < 0.6


@pytest.mark.parametrize("rules", [RPN, ROI])
def test_equals_loop(rules):
    for seed in range(10):
        boxes, gt_boxes, valid, gt_valid = random_case(seed, 80, 70)
        matches = match(boxes, gt_boxes, valid, gt_valid, rules)
        iou = oracles.iou_matrix(boxes[valid], gt_boxes[gt_valid])
        states, objects = oracles.match(iou, *rules.values())
        np.testing.assert_array_equal(matches.states[valid], states)
        np.testing.assert_array_equal(matches.matched_gt[valid], np.flatnonzero(gt_valid)[objects])
        np.testing.assert_array_equal(matches.states[~valid], Match.IGNORE)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 7.0])
def test_invalid_rows_change_nothing(garbage):
    boxes, gt_boxes, valid, gt_valid = random_case(3, 60, 10)
    expected = match(boxes, gt_boxes, valid, gt_valid)
    garbled = match(
        np.where(valid[:, None], boxes, garbage), np.where(gt_valid[:, None], gt_boxes, garbage), valid, gt_valid
    )
    more = match(boxes, np.concatenate([gt_boxes, np.full((50, 4), garbage)]), valid, np.pad(gt_valid, (0, 50)))
    for other in (garbled, more):
        for name in ("states", "matched_gt"):
            np.testing.assert_array_equal(getattr(other, name)[valid], getattr(expected, name)[valid])
        np.testing.assert_array_equal(other.states[~valid], Match.IGNORE)


@pytest.mark.parametrize("rules", [RPN, ROI])
@pytest.mark.parametrize("num_gt", [0, 1, 3])
def test_without_objects_all_is_background(rules, num_gt):
    matches = match([[0, 0, 4, 4], [1, 1, 9, 9]], np.zeros((num_gt, 4)), gt_valid=np.zeros(num_gt, bool), rules=rules)
    np.testing.assert_array_equal(matches.states, [Match.BACKGROUND, Match.BACKGROUND])
    np.testing.assert_array_equal(matches.matched_gt, [0, 0])


def test_zero_area_objects_match_nothing():
    matches = match([[0, 0, 4, 4], [2, 2, 2, 2]], [[2, 2, 2, 2]])
    np.testing.assert_array_equal(matches.states, [Match.BACKGROUND, Match.BACKGROUND])


def test_vmap_equals_loop_and_jit_equals_eager():
    cases = [random_case(seed, 30, 40) for seed in range(3)]
    batched = [jnp.asarray(np.stack(column)) for column in zip(*cases, strict=True)]
    boxes, gt_boxes, valid, gt_valid = batched
    together = jax.vmap(partial(match_boxes, **RPN))(boxes, valid, gt_boxes, gt_valid)
    for index, case in enumerate(cases):
        alone = match_boxes(*(jnp.asarray(case[i]) for i in (0, 2, 1, 3)), **RPN)
        jitted = match(case[0], case[1], case[2], case[3])
        for name in ("states", "matched_gt"):
            np.testing.assert_array_equal(getattr(together, name)[index], getattr(alone, name))
            np.testing.assert_array_equal(getattr(jitted, name), getattr(alone, name))
