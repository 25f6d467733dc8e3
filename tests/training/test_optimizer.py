"""The optimizer against SGD written out in NumPy, and the schedule against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrcnn_jax.config import ModelConfig, TrainConfig
from mrcnn_jax.training.optimizer import learning_rate, make_optimizer

CONFIG = TrainConfig(
    learning_rate=0.1, momentum=0.9, weight_decay=0.01, warmup_steps=4, warmup_factor=0.2, decay_steps=(6, 8)
)


def make_params(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    shapes = {
        "backbone": {
            "stem": {"conv": {"kernel": (7, 7, 3, 2)}, "norm": {"scale": (2,), "bias": (2,)}},
            "layer1_0": {"conv1": {"conv": {"kernel": (3, 3, 2, 2)}}},
            "layer2_1": {"conv1": {"conv": {"kernel": (3, 3, 2, 2)}}},
        },
        "fpn": {"lateral2": {"conv": {"kernel": (1, 1, 2, 4), "bias": (4,)}}},
        "mask_head": {"kernel": (4, 3), "bias": (3,)},
    }
    draw = lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda node: isinstance(node, tuple))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.02),  # warmup_factor of the rate
        (1, 0.04),
        (2, 0.06),  # half of the warm-up: halfway between 0.2 and 1
        (4, 0.1),
        (5, 0.1),
        (6, 0.01),  # from the first drop on
        (7, 0.01),
        (8, 0.001),
        (1000, 0.001),
    ],
)
def test_learning_rate_golden(step, expected):
    rate = learning_rate(CONFIG, step)
    assert rate.dtype == jnp.float32
    np.testing.assert_allclose(rate, expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda s: learning_rate(CONFIG, s))(jnp.int32(step)), expected, rtol=1e-5)


def test_learning_rate_of_the_paper():
    config = TrainConfig()
    for step, expected in (
        (0, 2e-5),
        (500, 0.02 * 0.5005),
        (1000, 0.02),
        (59_999, 0.02),
        (60_000, 2e-3),
        (89_999, 2e-4),
    ):
        np.testing.assert_allclose(learning_rate(config, step), expected, rtol=1e-4)


def test_learning_rate_without_warmup_and_without_drops():
    np.testing.assert_allclose(learning_rate(TrainConfig(warmup_steps=0, decay_steps=()), 0), 0.02, rtol=1e-6)
    drop_in_warmup = TrainConfig(warmup_steps=10, warmup_factor=0.0, decay_steps=(5,))
    np.testing.assert_allclose(learning_rate(drop_in_warmup, 5), 0.02 * 0.5 * 0.1, rtol=1e-5)


@pytest.mark.parametrize("freeze_at", [0, 2])
def test_equals_sgd_in_numpy(freeze_at):
    optimizer = make_optimizer(CONFIG, ModelConfig(freeze_at=freeze_at))
    params = make_params()
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    expected = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    velocity = [np.zeros_like(leaf) for leaf in expected]
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    frozen = [freeze_at == 2 and ("stem" in name or "layer1_0" in name) for name in names]
    assert sum(frozen) == (4 if freeze_at else 0)
    for step, rate in enumerate((0.02, 0.04, 0.06)):
        gradients = make_params(seed=step + 1)
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for index, gradient in enumerate(jax.tree.leaves(gradients)):
            if not frozen[index]:
                decay = 0.01 if expected[index].ndim > 1 else 0.0  # neither biases nor norms
                velocity[index] = 0.9 * velocity[index] + np.asarray(gradient, np.float64) + decay * expected[index]
                expected[index] = expected[index] - rate * velocity[index]
        for leaf, value, name in zip(jax.tree.leaves(params), expected, names, strict=True):
            np.testing.assert_allclose(leaf, value, rtol=1e-5, atol=1e-6, err_msg=name)
    for leaf, first, is_frozen in zip(jax.tree.leaves(params), jax.tree.leaves(make_params()), frozen, strict=True):
        assert np.array_equal(leaf, first) == is_frozen


def test_frozen_parameters_have_no_momentum():
    # Memory, and checkpoints, hold velocities of what is trained only.
    optimizer = make_optimizer(CONFIG, ModelConfig(freeze_at=5))
    shapes = {leaf.shape for leaf in jax.tree.leaves(optimizer.init(make_params()))}
    assert (7, 7, 3, 2) not in shapes and (3, 3, 2, 2) not in shapes and (1, 1, 2, 4) in shapes
