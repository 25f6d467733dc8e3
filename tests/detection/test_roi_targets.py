"""RoIs sampled for the heads: foreground in the first slots, right labels and deltas, objects among the candidates."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.detection.roi_targets import count_foreground, sample_rois
from mrcnn_jax.structures import GroundTruth, Proposals, RoiTargets
from tests import oracles, tiny

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
CONFIG = replace(tiny.TARGETS, roi_samples=16)  # a quota of four foreground RoIs
jitted_sample = jax.jit(partial(sample_rois, targets_config=CONFIG, delta_weights=WEIGHTS))


def make_proposals(boxes, valid=None) -> Proposals:
    boxes = jnp.asarray(boxes, jnp.float32).reshape(-1, 4)
    valid = jnp.ones(len(boxes), bool) if valid is None else jnp.asarray(valid)
    return Proposals(boxes, jnp.zeros(len(boxes)), valid)


def make_truth(boxes, labels, valid=None) -> GroundTruth:
    boxes = jnp.asarray(boxes, jnp.float32).reshape(-1, 4)
    valid = jnp.ones(len(boxes), bool) if valid is None else jnp.asarray(valid)
    return GroundTruth(boxes, jnp.asarray(labels, jnp.int32), jnp.ones((len(boxes), 4, 4), jnp.uint8), valid)


def random_case(seed: int):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 60, (3, 2))
    objects = np.concatenate([corners, corners + rng.integers(10, 40, (3, 2))], axis=1).astype(np.float32)
    near = objects[rng.integers(0, 3, 20)] + rng.integers(-6, 7, (20, 4))
    far = rng.integers(0, 50, (20, 2))
    far = np.concatenate([far, far + rng.integers(5, 50, (20, 2))], axis=1)
    boxes = np.concatenate([near, far]).astype(np.float32)
    valid = rng.random(40) < 0.8
    return np.where(valid[:, None], boxes, 0), valid, objects, rng.integers(1, 4, 3)


def test_golden():
    # One proposal on the object, one beside it; the object itself joins the candidates.
    targets = jitted_sample(
        make_proposals([[50, 50, 70, 70], [2, 0, 12, 10]]), make_truth([[0, 0, 10, 10]], [3]), key=jax.random.key(0)
    )
    rois = np.asarray(targets.rois)
    assert sorted(map(tuple, rois[:2].tolist())) == [(0, 0, 10, 10), (2, 0, 12, 10)]
    np.testing.assert_array_equal(rois[2], [50, 50, 70, 70])
    np.testing.assert_array_equal(targets.labels, [3, 3] + [0] * 14)
    np.testing.assert_array_equal(targets.valid, [True] * 3 + [False] * 13)
    shifted = int(np.flatnonzero(rois[:, 0] == 2)[0])
    np.testing.assert_allclose(targets.deltas[shifted], [-2, 0, 0, 0], atol=1e-5)  # 10 * -2 / 10
    assert not rois[3:].any() and not np.asarray(targets.deltas)[2:].any()


def test_sampled_rois_are_what_they_say():
    for seed in range(8):
        boxes, valid, objects, labels = random_case(seed)
        targets = jitted_sample(make_proposals(boxes, valid), make_truth(objects, labels), key=jax.random.key(seed))
        candidates = np.concatenate([boxes[valid], objects])
        states, matched = oracles.match(oracles.iou_matrix(candidates, objects), 0.5, 0.5, low_quality=False)
        num_foreground = min(states.count(2), CONFIG.num_foreground_rois)
        num_valid = min(num_foreground + states.count(1), 16)
        np.testing.assert_array_equal(targets.valid, np.arange(16) < num_valid)
        np.testing.assert_array_equal(targets.labels > 0, np.arange(16) < num_foreground)
        for slot in range(num_valid):
            index = next(i for i, box in enumerate(candidates) if (box == np.asarray(targets.rois[slot])).all())
            assert states[index] == (2 if slot < num_foreground else 1)
            if slot < num_foreground:
                assert targets.matched_gt[slot] == matched[index] and targets.labels[slot] == labels[matched[index]]
                expected = oracles.encode_box(objects[matched[index]], candidates[index], WEIGHTS)
                np.testing.assert_allclose(targets.deltas[slot], expected, atol=1e-4)


def test_foreground_stays_within_its_slots():
    # Thirty proposals on one object, none elsewhere: the quota is four, and no background can fill the rest.
    targets = jitted_sample(
        make_proposals([[0, 0, 10, 10]] * 30), make_truth([[0, 0, 10, 10]], [2]), key=jax.random.key(0)
    )
    np.testing.assert_array_equal(targets.labels, [2] * 4 + [0] * 12)
    np.testing.assert_array_equal(targets.valid, np.arange(16) < 4)


def test_objects_can_be_sampled_when_proposals_miss_them():
    truth = make_truth([[0, 0, 10, 10], [70, 70, 90, 99]], [1, 2])
    targets = jitted_sample(make_proposals([[30, 30, 40, 40]]), truth, key=jax.random.key(0))
    np.testing.assert_array_equal(sorted(targets.labels.tolist(), reverse=True)[:3], [2, 1, 0])
    assert not np.asarray(targets.deltas).any()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 20.0])
def test_invalid_rows_change_nothing(garbage):
    boxes, valid, objects, labels = random_case(0)
    gt_valid = np.array([True, False, True])
    objects = np.where(gt_valid[:, None], objects, 0)
    expected = jitted_sample(make_proposals(boxes, valid), make_truth(objects, labels, gt_valid), key=jax.random.key(1))
    spoiled = np.where(valid[:, None], boxes, garbage)
    spoiled_objects = np.where(gt_valid[:, None], objects, garbage)
    spoiled_labels = np.where(gt_valid, labels, -7)
    produced = jitted_sample(
        make_proposals(spoiled, valid), make_truth(spoiled_objects, spoiled_labels, gt_valid), key=jax.random.key(1)
    )
    jax.tree.map(np.testing.assert_array_equal, produced, expected)
    # More padded objects behind the others.
    more = np.concatenate([spoiled_objects, np.full((6, 4), garbage)])
    truth = make_truth(more, np.pad(labels, (0, 6)), np.pad(gt_valid, (0, 6)))
    jax.tree.map(
        np.testing.assert_array_equal,
        jitted_sample(make_proposals(boxes, valid), truth, key=jax.random.key(1)),
        expected,
    )


def test_without_objects_all_are_background():
    boxes, valid, objects, _ = random_case(2)
    truth = make_truth(np.zeros_like(objects), np.zeros(3), [False] * 3)
    targets = jitted_sample(make_proposals(boxes, valid), truth, key=jax.random.key(0))
    assert targets.valid.all() and not targets.labels.any() and not np.asarray(targets.deltas).any()
    nothing = jitted_sample(make_proposals(boxes * 0, valid & False), truth, key=jax.random.key(0))
    assert not nothing.valid.any() and not nothing.rois.any() and not nothing.labels.any()


def test_targets_carry_no_gradient():
    boxes, valid, objects, labels = random_case(3)

    def total(boxes):
        targets = sample_rois(
            make_proposals(boxes, valid),
            make_truth(objects, labels),
            targets_config=CONFIG,
            delta_weights=WEIGHTS,
            key=jax.random.key(0),
        )
        return targets.rois.sum() + targets.deltas.sum()

    assert not np.asarray(jax.jit(jax.grad(total))(jnp.asarray(boxes))).any()


def test_foreground_is_counted_with_and_without_the_objects_own_boxes():
    boxes = jnp.array([[[0.0, 0, 10, 10], [20, 20, 40, 40]]])
    truth = GroundTruth(boxes, jnp.array([[1, 2]]), jnp.zeros((1, 2, 1, 1), jnp.uint8), jnp.ones((1, 2), bool))
    rois = jnp.array([[[20.0, 20, 40, 40], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]]])
    labels, matched = jnp.array([[2, 1, 1, 0]]), jnp.array([[1, 0, 0, 0]])
    targets = RoiTargets(rois, labels, jnp.zeros_like(rois), matched, jnp.ones((1, 4), bool))
    counts = {name: each.tolist() for name, each in count_foreground(targets, truth).items()}
    assert counts == {"foreground_rois": [3.0], "foreground_proposals": [1.0]}
