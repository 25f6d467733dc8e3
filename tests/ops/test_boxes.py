"""Box geometry against float64 loops, its laws, and the boxes that break careless formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mrcnn_jax.ops.boxes import box_areas, clip_boxes, compute_iou, decode_boxes, encode_boxes, is_nonempty
from tests import oracles

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
UNIT_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


def random_boxes(seed: int, count: int) -> jax.Array:
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 100, (count, 2)), rng.uniform(1, 60, (count, 2))
    return jnp.asarray(np.concatenate([corners, corners + sides], axis=1), jnp.float32)


def test_iou_golden():
    # 0         10        20    The first box is the square, the second the same moved by (5, 5), the third a small
    # +----------+                one inside the first. The others: the square, its right neighbour, the upper half
    # |     +----|-----+          of both, a point.
    # +-----|----+     |
    #       +----------+
    boxes = jnp.array([[0, 0, 10, 10], [5, 5, 15, 15], [2, 2, 4, 4]], jnp.float32)
    others = jnp.array([[0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 20, 5], [3, 3, 3, 3]], jnp.float32)
    expected = [[1, 0, 1 / 3, 0], [1 / 7, 1 / 7, 0, 0], [0.04, 0, 0.04, 0]]
    np.testing.assert_allclose(compute_iou(boxes, others), expected, rtol=1e-7)


def test_iou_equals_loop_and_is_symmetric():
    boxes, others = random_boxes(0, 40), random_boxes(1, 30)
    iou = compute_iou(boxes, others)
    np.testing.assert_allclose(iou, oracles.iou_matrix(boxes, others), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(iou, compute_iou(others, boxes).T)
    assert 0 <= iou.min() and iou.max() <= 1
    np.testing.assert_allclose(jax.jit(compute_iou)(boxes, others), iou, rtol=1e-6)
    batched = jax.jit(jax.vmap(compute_iou))(boxes.reshape(2, 20, 4), others.reshape(2, 15, 4))
    np.testing.assert_allclose(batched[1], iou[20:, 15:], rtol=1e-6)


def test_iou_tells_large_boxes_apart():
    # One pixel more on 1333: bfloat16 would say 1.
    iou = compute_iou(jnp.array([[0.0, 0.0, 1333.0, 800.0]]), jnp.array([[0.0, 0.0, 1332.0, 800.0]]))
    np.testing.assert_allclose(iou, [[1332 / 1333]], rtol=1e-6)


def test_empty_boxes_have_iou_zero_and_finite_gradients():
    boxes = jnp.array([[0, 0, 0, 0], [3, 3, 3, 9], [0, 0, 4, 4]], jnp.float32)
    iou, gradient = compute_iou(boxes, boxes), jax.jit(jax.grad(lambda b: compute_iou(b, boxes).sum()))(boxes)
    np.testing.assert_array_equal(iou, np.diag([0, 0, 1]))
    assert np.isfinite(gradient).all()
    assert compute_iou(boxes[:0], boxes).shape == (0, 3)
    assert not np.isnan(compute_iou(jnp.full((1, 4), jnp.nan), boxes)).any()


def test_iou_of_far_boxes_stays_in_range():
    boxes = jnp.array([[-1e6, -1e6, 1e6, 1e6], [1e6, 1e6, 1e6 + 1, 1e6 + 1], [-5, -5, -1, -1]], jnp.float32)
    iou = compute_iou(boxes, boxes)
    assert np.isfinite(iou).all() and iou.min() >= 0 and iou.max() <= 1


def test_encode_golden():
    # Anchor 20 wide, 40 high around (20, 40); the box is 40 wide, 20 high around (40, 30).
    anchor, box = jnp.array([[10.0, 20.0, 30.0, 60.0]]), jnp.array([[20.0, 20.0, 60.0, 40.0]])
    log2 = np.log(2)
    np.testing.assert_allclose(encode_boxes(box, anchor, UNIT_WEIGHTS), [[1, -0.25, log2, -log2]], rtol=1e-6)
    np.testing.assert_allclose(encode_boxes(box, anchor, BOX_WEIGHTS), [[10, -2.5, 5 * log2, -5 * log2]], rtol=1e-6)


@pytest.mark.parametrize("weights", [UNIT_WEIGHTS, BOX_WEIGHTS, (1.0, 2.0, 3.0, 4.0)])
def test_encode_and_decode_equal_loops(weights):
    boxes, anchors = random_boxes(2, 50), random_boxes(3, 50)
    decode = partial(decode_boxes, weights=weights)
    deltas = jax.jit(partial(encode_boxes, weights=weights))(boxes, anchors)
    expected = [oracles.encode_box(b, a, weights) for b, a in zip(boxes, anchors, strict=True)]
    np.testing.assert_allclose(deltas, expected, rtol=1e-4, atol=1e-4)  # differences of centres cancel
    noise = deltas + 0.3
    expected = [oracles.decode_box(d, a, weights) for d, a in zip(noise, anchors, strict=True)]
    np.testing.assert_allclose(decode(noise, anchors), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(decode(deltas, anchors), boxes, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(jax.vmap(decode)(noise, anchors), decode(noise, anchors))


def test_decode_limits_the_scale():
    # 16 px become at most 1000 px, as in Detectron; down to nothing is allowed.
    anchors = jnp.tile(jnp.array([[0.0, 0.0, 16.0, 16.0]]), (2, 1))
    boxes = decode_boxes(jnp.array([[0.0, 0.0, 1e4, -1e4], [0.0, 0.0, -1e4, 1e4]]), anchors, UNIT_WEIGHTS)
    np.testing.assert_allclose(boxes, [[8 - 500, 8, 8 + 500, 8], [8, 8 - 500, 8, 8 + 500]], rtol=1e-5)


def test_encode_and_decode_gradients():
    boxes, anchors = random_boxes(4, 3), random_boxes(5, 3)
    # Finite differences in float32: a percent.
    encode = jax.jit(lambda boxes: encode_boxes(boxes, anchors, BOX_WEIGHTS))
    check_grads(encode, (boxes,), order=1, atol=2e-2, rtol=2e-2, eps=0.05)
    decode = jax.jit(lambda deltas: decode_boxes(deltas, anchors, BOX_WEIGHTS))
    check_grads(decode, (encode(boxes),), order=1, atol=2e-2, rtol=2e-2, eps=0.05)


def test_padded_rows_encode_to_finite_numbers_and_gradients():
    # A padded row is a zero box, matched to any anchor; F13: a gradient of NaN through `where` would be the classic.
    boxes = jnp.concatenate([jnp.zeros((1, 4)), random_boxes(6, 1)])
    anchors = jnp.concatenate([random_boxes(7, 1), jnp.zeros((1, 4))])
    assert np.isfinite(encode_boxes(boxes, anchors, UNIT_WEIGHTS)).all()
    gradients = jax.grad(lambda pair: encode_boxes(*pair, UNIT_WEIGHTS).sum())((boxes, anchors))
    assert np.isfinite(gradients[0]).all() and np.isfinite(gradients[1]).all()


def test_clip_golden_and_idempotent():
    boxes = jnp.array([[-5, -5, 200, 200], [10, 20, 30, 40], [90, 60, 95, 70], [-9, -9, -1, -1]], jnp.float32)
    clipped = clip_boxes(boxes, jnp.array([50, 80]))  # height, width
    expected = [[0, 0, 80, 50], [10, 20, 30, 40], [80, 50, 80, 50], [0, 0, 0, 0]]
    np.testing.assert_array_equal(clipped, expected)
    np.testing.assert_array_equal(clip_boxes(clipped, jnp.array([50, 80])), clipped)
    np.testing.assert_array_equal(clip_boxes(boxes, jnp.array([0, 0])), np.zeros((4, 4)))


def test_areas_and_emptiness():
    boxes = jnp.array([[1, 2, 4, 7], [0, 0, 0, 5], [5, 5, 4, 9], [0, 0, 2, 2]], jnp.float32)
    np.testing.assert_array_equal(box_areas(boxes), [15, 0, -4, 4])
    np.testing.assert_array_equal(is_nonempty(boxes), [True, False, False, True])
    np.testing.assert_array_equal(is_nonempty(boxes, min_side=2.0), [True, False, False, True])
    np.testing.assert_array_equal(is_nonempty(boxes, min_side=2.01), [True, False, False, False])
    assert not is_nonempty(jnp.array([0.0, 0.0, jnp.nan, 5.0]))
