"""Choosing detections from the box head's outputs, against a loop over classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.detection.selection import select_detections
from mrcnn_jax.structures import Proposals
from tests import oracles

MODEL = ModelConfig(num_classes=3)
CONFIG = TestConfig(score_threshold=0.2, nms_threshold=0.5, max_detections=12)
NUM = 30


jitted_select = jax.jit(select_detections, static_argnames=("model_config", "test_config"))


def select(logits, deltas, proposals, image_hw=(80, 100), test_config=CONFIG):
    arrays = jnp.asarray(logits), jnp.asarray(deltas), proposals, jnp.asarray(image_hw)
    return jitted_select(*arrays, model_config=MODEL, test_config=test_config)


def random_case(seed: int):
    rng = np.random.default_rng(seed)
    logits, deltas = rng.normal(0, 1.5, (NUM, 4)), rng.normal(0, 0.5, (NUM, 4, 4))
    corners = rng.uniform(0, 50, (NUM, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 60, (NUM, 2))], axis=1)
    valid = rng.random(NUM) < 0.8
    return (
        logits.astype(np.float32),
        deltas.astype(np.float32),
        np.where(valid[:, None], boxes, 0).astype(np.float32),
        valid,
    )


def make_proposals(boxes, valid) -> Proposals:
    return Proposals(jnp.asarray(boxes, jnp.float32), jnp.zeros(len(boxes)), jnp.asarray(valid))


def select_by_loop(logits, deltas, boxes, valid, image_hw, config):
    """Rows of (score, label, box), best first."""
    scores, rows = oracles.softmax(logits), []
    for label in range(1, scores.shape[1]):
        candidates = []
        for index in np.flatnonzero(valid):
            if scores[index, label] > config.score_threshold:
                box = oracles.decode_box(deltas[index, label], boxes[index], MODEL.box_delta_weights)
                box = oracles.clip_box(box, image_hw)
                if box[2] > box[0] and box[3] > box[1]:
                    candidates.append((scores[index, label], label, box))
        if candidates:
            value, _, box = (np.array(column) for column in zip(*candidates, strict=True))
            group = np.zeros(len(box))
            kept = oracles.greedy_nms(box, value, group == 0, group, config.nms_threshold, len(box))
            rows += [candidates[i] for i in kept]
    return sorted(rows, key=lambda row: -row[0])[: config.max_detections]


@pytest.mark.parametrize("max_detections", [5, 60])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_loop(seed, max_detections):
    config = TestConfig(score_threshold=0.2, nms_threshold=0.5, max_detections=max_detections)
    logits, deltas, boxes, valid = random_case(seed)
    detections = select(logits, deltas, make_proposals(boxes, valid), test_config=config)
    rows = select_by_loop(logits, deltas, boxes, valid, (80, 100), config)
    kept = np.asarray(detections.valid)
    np.testing.assert_array_equal(kept, np.arange(max_detections) < len(rows))
    np.testing.assert_array_equal(detections.labels[kept], [row[1] for row in rows])
    np.testing.assert_allclose(detections.scores[kept], [row[0] for row in rows], rtol=1e-5)
    np.testing.assert_allclose(detections.boxes[kept], [row[2] for row in rows], atol=1e-3)
    for leaf in (detections.boxes, detections.scores, detections.labels):
        assert not np.asarray(leaf)[~kept].any()


def test_classes_do_not_suppress_each_other_and_background_is_no_detection():
    # Two equal proposals: the first is surely label 2, the second label 2 or 1, the third background.
    boxes = [[10, 10, 50, 50], [10, 10, 50, 50], [60, 60, 90, 79]]
    logits = np.array([[0, 0, 6, 0], [0, 3.5, 3, 0], [9, 0, 0, 0]], np.float32)
    detections = select(logits, np.zeros((3, 4, 4), np.float32), make_proposals(boxes, [True] * 3))
    assert detections.labels[detections.valid].tolist() == [2, 1]
    np.testing.assert_array_equal(detections.boxes[:2], [[10, 10, 50, 50]] * 2)


def test_deltas_of_the_own_class_are_used():
    deltas = np.zeros((1, 4, 4), np.float32)
    deltas[0, 1] = [10, 0, 0, 0]  # label 1: moved by its width
    deltas[0, 3] = [0, 0, 0, 5 * np.log(2)]  # label 3: twice as high
    logits = np.array([[0, 2, -9, 2]], np.float32)
    detections = select(logits, deltas, make_proposals([[20, 30, 40, 40]], [True]))
    found = {
        int(label): box.tolist()
        for label, box in zip(detections.labels[:2], np.asarray(detections.boxes), strict=False)
    }
    np.testing.assert_allclose(found[1], [40, 30, 60, 40], atol=1e-4)
    np.testing.assert_allclose(found[3], [20, 25, 40, 45], atol=1e-4)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 50.0])
def test_invalid_proposals_change_nothing(garbage):
    logits, deltas, boxes, valid = random_case(3)
    expected = select(logits, deltas, make_proposals(boxes, valid))
    logits, deltas, boxes = logits.copy(), deltas.copy(), boxes.copy()
    logits[~valid], deltas[~valid], boxes[~valid] = garbage, garbage, garbage
    jax.tree.map(np.testing.assert_array_equal, select(logits, deltas, make_proposals(boxes, valid)), expected)


def test_an_invalid_proposal_is_no_detection_however_sure_and_large():
    logits = np.array([[0, 9, 0, 0], [0, 0, 2, 0]], np.float32)
    boxes = [[10, 10, 60, 60], [30, 5, 90, 70]]
    detections = select(logits, np.zeros((2, 4, 4), np.float32), make_proposals(boxes, [False, True]))
    assert detections.labels[detections.valid].tolist() == [2]


def test_outputs_that_are_not_finite_are_no_detections():
    logits, deltas, boxes, valid = random_case(4)
    logits[0], deltas[1] = np.nan, np.nan
    detections = select(logits, deltas, make_proposals(boxes, valid))
    assert all(np.isfinite(leaf).all() for leaf in (detections.boxes, detections.scores))


def test_nothing_found_in_a_image_of_size_zero_or_below_the_threshold():
    logits, deltas, boxes, valid = random_case(5)
    assert not select(logits, deltas, make_proposals(boxes, valid), image_hw=(0, 0)).valid.any()
    assert not select(
        logits * 0, deltas, make_proposals(boxes, valid), test_config=TestConfig(score_threshold=0.25)
    ).valid.any()


def test_only_the_best_candidates_enter_nms():
    logits, deltas, boxes, valid = random_case(6)
    few = TestConfig(score_threshold=0.0, max_detections=12, max_candidates=4)
    scores = np.sort((oracles.softmax(logits)[valid, 1:]).ravel())[::-1]
    detections = select(logits, deltas, make_proposals(boxes, valid), test_config=few)
    assert 1 <= detections.valid.sum() <= 4 and detections.scores[0] == pytest.approx(scores[0], rel=1e-5)
