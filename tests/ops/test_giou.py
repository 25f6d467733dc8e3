"""Generalised IoU and its loss: a loop in float64, numerical gradients, and rows that must not matter."""

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig, TargetsConfig
from mrcnn_jax.detection import objective
from mrcnn_jax.ops.boxes import compute_giou, compute_iou
from mrcnn_jax.ops.losses import box_loss, giou_loss
from mrcnn_jax.structures import RoiTargets
from tests import oracles

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
NUM, VALID = 10, np.arange(10) < 8
FOREGROUND = np.arange(10) % 3 > 0


def giou(box: np.ndarray, other: np.ndarray) -> float:
    """From sets of areas: the IoU minus the uncovered share of the hull."""
    hull = [*np.minimum(box, other)[:2], *np.maximum(box, other)[2:]]
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other, hull)]
    iou = oracles.box_iou(box, other)
    union = (areas[0] + areas[1]) / (1 + iou)  # |A| + |B| = |A or B| + |A and B|
    return iou - (areas[2] - union) / areas[2] if areas[2] > 0 else iou


def loss_by_formula(deltas: np.ndarray, targets: np.ndarray, rois: np.ndarray) -> float:
    total = 0.0
    for row in np.flatnonzero(FOREGROUND & VALID):
        box, other = (oracles.decode_box(d, rois[row], WEIGHTS) for d in (deltas[row], targets[row]))
        total += 1 - giou(box, other)
    return total / VALID.sum()


def make_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """deltas, targets and RoIs; boxes that overlap, touch nothing, and lie inside each other."""
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 100, (NUM, 2)), rng.uniform(5, 60, (NUM, 2))
    deltas, targets = rng.normal(0, 4, (2, NUM, 4))
    deltas[1] = targets[1] + (0, 0, 3, 3)
    deltas[2, 0] = targets[2, 0] + 60
    return deltas, targets, np.concatenate([corners, corners + sides], axis=1)


def as_jax(*arrays: np.ndarray) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)


def loss_of(deltas: Any, targets: Any, rois: Any, valid: Any = VALID) -> jax.Array:
    return giou_loss(deltas, targets, rois, jnp.asarray(FOREGROUND), jnp.asarray(valid), weights=WEIGHTS)


def test_giou_golden() -> None:
    # A square of side 10 and: itself, its quarter, its right neighbour, one two sides further right, a corner touched,
    # the point in its corner; two equal points.
    boxes = jnp.array([[0, 0, 10, 10]] * 6 + [[3, 3, 3, 3]], jnp.float32)
    others = jnp.array(
        [[0, 0, 10, 10], [0, 0, 5, 5], [10, 0, 20, 10], [30, 0, 40, 10], [10, 10, 20, 20], [0, 0, 0, 0], [3, 3, 3, 3]],
        jnp.float32,
    )
    expected = [1, 0.25, 0, -0.5, -0.5, 0, 0]
    np.testing.assert_allclose(compute_giou(boxes, others), expected, atol=1e-7)
    np.testing.assert_array_equal(compute_giou(others, boxes), compute_giou(boxes, others))
    gradient = jax.grad(lambda b: compute_giou(b, others).sum())(boxes)
    assert np.isfinite(gradient).all()
    assert compute_giou(boxes[:0], others[:0]).shape == (0,)


def test_giou_equals_loop() -> None:
    rng = np.random.default_rng(1)
    corners, sides = rng.uniform(0, 60, (2, 50, 2)), rng.uniform(0, 60, (2, 50, 2))
    boxes, others = np.concatenate([corners, corners + sides], axis=2)
    found = compute_giou(*as_jax(boxes, others))
    expected = [giou(box, other) for box, other in zip(boxes, others, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # float32 areas
    assert (found <= jnp.diag(compute_iou(*as_jax(boxes, others)))).all() and (found >= -1).all()
    np.testing.assert_allclose(jax.jit(compute_giou)(*as_jax(boxes, others)), found, rtol=1e-5, atol=1e-6)


def test_loss_and_gradient_equal_the_formula() -> None:
    deltas, targets, rois = make_case()
    value, gradient = jax.jit(jax.value_and_grad(loss_of))(*as_jax(deltas, targets, rois))
    np.testing.assert_allclose(value, loss_by_formula(deltas, targets, rois), rtol=1e-5)
    numerical, step = np.zeros_like(deltas), 1e-6
    for index in np.ndindex(deltas.shape):
        change = np.zeros_like(deltas)
        change[index] = step
        above, below = (loss_by_formula(deltas + sign * change, targets, rois) for sign in (1, -1))
        numerical[index] = (above - below) / (2 * step)
    np.testing.assert_allclose(gradient, numerical, rtol=1e-3, atol=1e-5)
    assert np.abs(numerical[2, 0]) > 1e-4  # boxes that do not touch are pulled together


def test_padding_reaches_neither_value_nor_gradient() -> None:
    arrays = make_case()
    both = jax.jit(jax.value_and_grad(loss_of))
    value, gradient = both(*as_jax(*arrays))
    for garbage in (np.nan, np.inf, -np.inf, 1e30):
        spoiled = [array.copy() for array in arrays]
        for array in spoiled:
            array[~VALID] = garbage
        spoiled[0][~FOREGROUND] = garbage
        other = both(*as_jax(*spoiled))
        np.testing.assert_array_equal(other[0], value)
        np.testing.assert_array_equal(other[1], gradient)
    nothing, zero = jax.value_and_grad(loss_of)(*as_jax(*spoiled), np.zeros(NUM, bool))
    assert nothing == 0 and not np.asarray(zero).any()


class Head(nn.Module):
    """Its deltas of three classes are the pooled features."""

    config: ModelConfig

    def classify_rois(self, features: Any) -> Any:
        return jnp.zeros((NUM, 3)), features.reshape(NUM, 3, 4)


@pytest.mark.parametrize("name", ["giou", "smooth_l1"])
def test_the_box_head_trains_on_the_configured_loss(name: str) -> None:
    deltas, targets, rois = as_jax(*make_case())
    labels = jnp.where(jnp.asarray(FOREGROUND & VALID), 1 + jnp.arange(NUM) % 2, 0)
    per_class = jnp.zeros((NUM, 3, 4)).at[jnp.arange(NUM), labels].set(deltas)
    sampled = RoiTargets(rois, labels, targets, jnp.zeros(NUM, jnp.int32), jnp.asarray(VALID))
    config = replace(TargetsConfig(), box_loss=name)
    losses = objective.box_head_losses(
        {},
        per_class.reshape(NUM, 1, 1, 12),
        jax.tree.map(lambda leaf: leaf[None], sampled),
        model=Head(ModelConfig(box_delta_weights=WEIGHTS)),
        targets_config=config,
    )
    loss = loss_of if name == "giou" else partial(smooth_l1_of, beta=config.box_loss_beta)
    np.testing.assert_allclose(losses["box"], loss(deltas, targets, rois)[None], rtol=1e-6)


def smooth_l1_of(deltas: Any, targets: Any, rois: Any, *, beta: float) -> jax.Array:
    return box_loss(deltas, targets, jnp.asarray(FOREGROUND), jnp.asarray(VALID), beta=beta)


def test_other_losses_are_refused() -> None:
    with pytest.raises(ValueError, match=r"targets\.box_loss.*'l3'"):
        TargetsConfig(box_loss="l3")
