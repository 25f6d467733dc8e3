"""Losses: their formulas in float64, and that padding reaches neither values nor gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mrcnn_jax.ops.losses import box_loss, class_loss, mask_loss, masked_mean, objectness_loss, sigmoid_cross_entropy
from mrcnn_jax.ops.losses import smooth_l1 as smooth_l1_loss
from tests import oracles

NUM, VALID = 12, np.arange(12) < 9
GARBAGE = (np.nan, np.inf, -np.inf, 1e30)


def make_case(name: str):
    """(loss of the predictions and targets, predictions, targets, validity, float64 value)."""
    rng = np.random.default_rng(0)
    foreground = rng.random(NUM) < 0.5
    if name == "objectness":
        logits = rng.normal(0, 3, NUM).astype(np.float32)
        value = oracles.binary_cross_entropy(logits, foreground)[VALID].mean()
        return lambda p, t, v: objectness_loss(p, jnp.asarray(foreground), v), logits, np.zeros(NUM, np.float32), value
    if name in ("box", "box_l1"):
        beta = 0.0 if name == "box_l1" else 0.5
        deltas, targets = rng.normal(0, 1, (2, NUM, 4)).astype(np.float32)
        total = oracles.smooth_l1(deltas - targets, beta)[VALID & foreground].sum()
        loss = lambda p, t, v: box_loss(p, t, jnp.asarray(foreground), v, beta=beta)  # noqa: E731
        return loss, deltas, targets, total / VALID.sum()
    if name == "class":
        logits, labels = rng.normal(0, 3, (NUM, 5)).astype(np.float32), rng.integers(0, 5, NUM)
        value = -np.log(oracles.softmax(logits)[np.arange(NUM), labels])[VALID].mean()
        return lambda p, t, v: class_loss(p, jnp.asarray(labels), v), logits, np.zeros(NUM, np.float32), value
    logits, targets = rng.normal(0, 3, (NUM, 6, 6)).astype(np.float32), rng.integers(0, 2, (NUM, 6, 6))
    value = oracles.binary_cross_entropy(logits, targets)[VALID].mean()
    return mask_loss, logits, targets.astype(np.float32), value


NAMES = ("objectness", "box", "box_l1", "class", "mask")


@pytest.mark.parametrize("name", NAMES)
def test_equals_formula(name):
    loss, predictions, targets, expected = make_case(name)
    arguments = (jnp.asarray(predictions), jnp.asarray(targets), jnp.asarray(VALID))
    value = loss(*arguments)
    assert value.dtype == jnp.float32 and value.shape == ()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(*arguments), value, rtol=1e-6)
    stacked = jax.vmap(loss)(*(jnp.stack([a, a]) for a in arguments))
    np.testing.assert_allclose(stacked, [value, value], rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_padding_reaches_neither_value_nor_gradient(name):
    loss, predictions, targets, _ = make_case(name)
    both = jax.jit(jax.value_and_grad(loss))
    value, gradient = both(jnp.asarray(predictions), jnp.asarray(targets), jnp.asarray(VALID))
    for garbage in GARBAGE:
        spoiled, spoiled_targets = predictions.copy(), targets.copy()
        spoiled[~VALID], spoiled_targets[~VALID] = garbage, garbage
        other = both(jnp.asarray(spoiled), jnp.asarray(spoiled_targets), jnp.asarray(VALID))
        np.testing.assert_array_equal(other[0], value)
        np.testing.assert_array_equal(other[1], gradient)
    np.testing.assert_array_equal(gradient[~VALID], np.zeros_like(gradient[~VALID]))


@pytest.mark.parametrize("name", NAMES)
def test_without_valid_rows_value_and_gradient_are_zero(name):
    loss, predictions, targets, _ = make_case(name)
    spoiled = jnp.full_like(jnp.asarray(predictions), jnp.nan)
    value, gradient = jax.value_and_grad(loss)(spoiled, jnp.asarray(targets), jnp.zeros(NUM, bool))
    assert value == 0 and not np.asarray(gradient).any()


@pytest.mark.parametrize("name", ["objectness", "box", "class", "mask"])
def test_gradients(name):
    loss, predictions, targets, _ = make_case(name)
    check = jax.jit(lambda p: NUM * loss(p, jnp.asarray(targets), jnp.asarray(VALID)))
    # Finite differences in float32: a percent.
    check_grads(check, (jnp.asarray(predictions),), order=1, modes="rev", atol=1e-2, rtol=1e-2, eps=1e-2)


def test_smooth_l1_golden():
    # beta 0.5: quadratic below, slope 1 above, joined without a step.
    values = smooth_l1_loss(jnp.array([0.0, 0.25, -0.25, 0.5, -2.0]), 0.5)
    np.testing.assert_allclose(values, [0, 0.0625, 0.0625, 0.25, 1.75])
    np.testing.assert_allclose(smooth_l1_loss(jnp.array([0.25, -2.0]), 0.0), [0.25, 2])
    slopes = jax.vmap(jax.grad(partial(smooth_l1_loss, beta=0.5)))(jnp.array([0.0, 0.25, -2.0]))
    np.testing.assert_allclose(slopes, [0, 0.5, -1])


def test_cross_entropy_of_extreme_logits_is_finite():
    logits, targets = jnp.array([1e4, -1e4, 1e4, -1e4, 0.0]), jnp.array([1.0, 0.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(sigmoid_cross_entropy(logits, targets), [0, 0, 1e4, 1e4, np.log(2)], rtol=1e-6)
    slope = jax.grad(lambda x: sigmoid_cross_entropy(x, targets).sum())(logits)
    np.testing.assert_allclose(slope, [0, 0, 1, -1, -0.5], atol=1e-6)
    confident = class_loss(jnp.array([[1e4, -1e4], [1e4, -1e4]]), jnp.array([0, 1]), jnp.array([True, True]))
    np.testing.assert_allclose(confident, 1e4)


def test_box_loss_is_divided_by_all_sampled_boxes():
    # One foreground box of four sampled ones, off by 1 in each number: 4 x 0.5 / 4.
    foreground, valid = jnp.array([True, False, False, False, True]), jnp.array([True, True, True, True, False])
    value = box_loss(jnp.ones((5, 4)), jnp.zeros((5, 4)), foreground, valid, beta=1.0)
    np.testing.assert_allclose(value, 0.5)


def test_bfloat16_logits_give_float32_losses():
    logits = jnp.array([0.1, 0.2, -3.0], jnp.bfloat16)
    value = objectness_loss(logits, jnp.array([True, False, True]), jnp.ones(3, bool))
    assert value.dtype == jnp.float32
    expected = oracles.binary_cross_entropy(np.asarray(logits, np.float64), [1, 0, 1]).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    masks = mask_loss(jnp.ones((1, 2, 2), jnp.bfloat16), jnp.ones((1, 2, 2)), jnp.ones(1, bool))
    assert masks.dtype == jnp.float32


def test_masked_mean():
    values = jnp.array([[1.0, np.nan], [3.0, 5.0]])
    valid = jnp.array([[True, False], [True, True]])
    assert masked_mean(values, valid) == 3
    assert masked_mean(values, valid, count=jnp.int32(6)) == 1.5
