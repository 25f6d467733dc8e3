"""Proposals of one image against a loop: top n per level, decode, clip, NMS per level, the best of all."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.detection.image_anchors import LevelAnchors, make_anchors
from mrcnn_jax.detection.proposals import propose
from tests import oracles, tiny

UNIT_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


jitted_propose = jax.jit(propose, static_argnames=("pre_nms_top_n", "post_nms_top_n", "nms_threshold"))


def make_level(boxes, valid=None) -> LevelAnchors:
    boxes = jnp.asarray(boxes, jnp.float32)
    return LevelAnchors(boxes, jnp.ones(len(boxes), bool) if valid is None else jnp.asarray(valid))


def run(logits, deltas, anchors, image_hw=(100, 100), pre=10, post=6, threshold=0.5):
    return jitted_propose(
        [jnp.asarray(level, jnp.float32) for level in logits],
        [jnp.asarray(level, jnp.float32) for level in deltas],
        anchors,
        jnp.asarray(image_hw),
        pre_nms_top_n=pre,
        post_nms_top_n=post,
        nms_threshold=threshold,
    )


def zero_deltas(*levels):
    return [np.zeros((len(level), 4)) for level in levels]


def test_golden():
    # Level 0: the second box overlaps the first and goes; the third lies apart; the fourth leaves the image.
    # Level 1: the same box as the best of level 0 stays, levels do not suppress each other.
    fine = make_level([[0, 0, 10, 10], [1, 0, 11, 10], [40, 40, 60, 60], [90, 90, 130, 130], [120, 0, 140, 20]])
    coarse = make_level([[0, 0, 10, 10]])
    proposals = run([[3, 2, 1, 0, 9], [2.5]], zero_deltas(range(5), range(1)), [fine, coarse])
    expected = [[0, 0, 10, 10], [0, 0, 10, 10], [40, 40, 60, 60], [90, 90, 100, 100], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(proposals.boxes, expected)
    np.testing.assert_array_equal(proposals.scores, [3, 2.5, 1, 0, 0, 0])
    np.testing.assert_array_equal(proposals.valid, [True, True, True, True, False, False])


def test_quota_per_level_comes_before_suppression():
    # With two per level the third, which would survive, is never looked at.
    level = make_level([[0, 0, 10, 10], [0, 0, 10, 9], [40, 40, 60, 60]])
    proposals = run([[3, 2, 1]], zero_deltas(range(3)), [level], pre=2)
    np.testing.assert_array_equal(proposals.valid, [True, False, False, False, False, False])


def test_deltas_move_the_anchors():
    level = make_level([[10, 10, 30, 50]])
    proposals = run([[0]], [[[0.5, -0.25, np.log(2), 0.0]]], [level])
    np.testing.assert_allclose(proposals.boxes[0], [10, 0, 50, 40], atol=1e-5)


def random_case(seed: int, image_hw: tuple[int, int]):
    rng = np.random.default_rng(seed)
    anchors = make_anchors((64, 96), jnp.asarray(image_hw), tiny.MODEL)
    logits = [rng.normal(size=len(level.boxes)).astype(np.float32) for level in anchors]
    deltas = [rng.normal(0, 0.4, (len(level.boxes), 4)).astype(np.float32) for level in anchors]
    return logits, deltas, anchors


def propose_by_loop(logits, deltas, anchors, image_hw, pre, post, threshold):
    found = []
    for level, (scores, shifts, boxes) in enumerate(zip(logits, deltas, anchors, strict=True)):
        usable = [i for i in np.argsort(-scores, kind="stable") if boxes.valid[i]][:pre]
        decoded = [
            oracles.clip_box(oracles.decode_box(shifts[i], boxes.boxes[i], UNIT_WEIGHTS), image_hw) for i in usable
        ]
        rows = [(box, scores[i]) for box, i in zip(decoded, usable, strict=True) if (box[2:] > box[:2]).all()]
        if rows:
            box, score = (np.array(column) for column in zip(*rows, strict=True))
            ones = np.ones(len(box), bool)
            kept = oracles.greedy_nms(box, score, ones, np.zeros(len(box)), threshold, len(box))
            found += [(-score[i], level, rank, box[i]) for rank, i in enumerate(kept)]
    found.sort(key=lambda row: row[:3])
    return np.array([row[3] for row in found[:post]]), np.array([-row[0] for row in found[:post]])


@pytest.mark.parametrize(("image_hw", "pre", "post"), [((64, 96), 40, 200), ((40, 30), 40, 30), ((40, 30), 2000, 20)])
def test_equals_loop(image_hw, pre, post):
    logits, deltas, anchors = random_case(pre, image_hw)
    proposals = run(logits, deltas, anchors, image_hw, pre, post, 0.5)
    boxes, scores = propose_by_loop(logits, deltas, anchors, image_hw, pre, post, 0.5)
    valid = np.asarray(proposals.valid)
    np.testing.assert_array_equal(valid, np.arange(post) < len(boxes))
    np.testing.assert_allclose(proposals.boxes[valid], boxes, atol=1e-3)
    np.testing.assert_allclose(proposals.scores[valid], scores)
    assert not np.asarray(proposals.boxes)[~valid].any() and not np.asarray(proposals.scores)[~valid].any()


def test_padded_anchors_are_never_proposed():
    logits, deltas, anchors = random_case(3, (40, 30))
    expected = run(logits, deltas, anchors, (40, 30))
    for garbage in (np.nan, np.inf, 1e30):
        logits = [np.where(level.valid, score, garbage) for score, level in zip(logits, anchors, strict=True)]
        deltas = [np.where(level.valid[:, None], d, garbage) for d, level in zip(deltas, anchors, strict=True)]
        proposals = run(logits, deltas, anchors, (40, 30))
        jax.tree.map(np.testing.assert_array_equal, proposals, expected)
    nothing = run(logits, deltas, make_anchors((64, 96), jnp.array([0, 0]), tiny.MODEL), (0, 0))
    assert not nothing.valid.any() and not nothing.boxes.any()


def test_outputs_that_are_not_finite_are_not_proposed():
    level = make_level([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
    proposals = run([[np.nan, 1, 0]], [[[0] * 4, [np.nan] * 4, [0] * 4]], [level])
    np.testing.assert_array_equal(proposals.valid, [True, False, False, False, False, False])
    np.testing.assert_array_equal(proposals.boxes[0], [40, 40, 50, 50])


def test_proposals_carry_no_gradient():
    logits, deltas, anchors = random_case(4, (64, 96))

    def total(logits, deltas):
        proposals = run(logits, deltas, anchors)
        return proposals.boxes.sum() + proposals.scores.sum()

    gradients = jax.grad(total, argnums=(0, 1))([jnp.asarray(x) for x in logits], [jnp.asarray(x) for x in deltas])
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))


def test_vmap_equals_loop():
    cases = [random_case(seed, (64, 96))[:2] for seed in (5, 6)]
    anchors = random_case(5, (64, 96))[2]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *cases)
    together = jax.vmap(partial(run, anchors=anchors))(*stacked)
    for index, (logits, deltas) in enumerate(cases):
        alone = run(logits, deltas, anchors)
        np.testing.assert_array_equal(together.valid[index], alone.valid)
        np.testing.assert_allclose(together.boxes[index], alone.boxes, atol=1e-4)
