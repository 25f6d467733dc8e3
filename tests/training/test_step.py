"""One optimizer step: eight devices equal one, a filler image is no image, one compilation per canvas."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig, TrainConfig
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import Batch
from mrcnn_jax.training.optimizer import make_optimizer
from mrcnn_jax.training.sharding import batch_sharding, make_mesh, replicated
from mrcnn_jax.training.state import TrainState, make_train_state
from mrcnn_jax.training.step import make_train_step
from tests import tiny

TRAIN = TrainConfig(warmup_steps=1000, warmup_factor=0.001, learning_rate=0.02)
LOSSES = {"loss/total", "loss/objectness", "loss/rpn_box", "loss/class", "loss/box", "loss/mask"}


class Trainer:
    """The step of one model on some devices, as the loop compiles it."""

    def __init__(self, config: ModelConfig, num_devices: int):
        self.config, self.mesh = config, make_mesh(jax.devices()[:num_devices])
        self.optimizer = make_optimizer(TRAIN, config)
        step = make_train_step(self.mesh, model=MaskRCNN(config), optimizer=self.optimizer, targets=tiny.TARGETS)
        shardings = (replicated(self.mesh), batch_sharding(self.mesh), replicated(self.mesh))
        self.step = jax.jit(step, in_shardings=shardings, donate_argnums=0)

    def start(self) -> TrainState:
        variables = jax.tree.map(lambda leaf: leaf.copy(), tiny.make_variables(self.config))
        return jax.device_put(make_train_state(variables, self.optimizer), replicated(self.mesh))

    def run(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, float]]:
        batch = jax.device_put(batch, batch_sharding(self.mesh))
        state, metrics = self.step(state, batch, jax.random.key(0))
        return state, {name: float(value) for name, value in metrics.items()}


@functools.cache
def trainer(num_devices: int) -> Trainer:
    return Trainer(tiny.MODEL, num_devices)


@functools.cache
def five_steps(num_devices: int) -> tuple[TrainState, list[dict[str, float]]]:
    one = trainer(num_devices)
    state, history = one.start(), []
    for _ in range(5):
        state, metrics = one.run(state, tiny.make_batch(8))
        history.append(metrics)
    return jax.device_get(state), history


def test_eight_devices_equal_one():
    (one, expected), (eight, produced) = five_steps(1), five_steps(8)
    for step in range(5):
        for name in LOSSES:
            assert produced[step][name] == pytest.approx(expected[step][name], rel=1e-5), (step, name)
        assert produced[step]["foreground_rois"] == expected[step]["foreground_rois"]
        assert produced[step]["images"] == expected[step]["images"] == 8
        # A ReLU that flips in the last bit moves a gradient by a thousandth.
        assert produced[step]["gradient_norm"] == pytest.approx(expected[step]["gradient_norm"], rel=1e-3)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), eight.params, one.params)


def test_a_step_learns_and_counts():
    state, history = five_steps(1)
    assert state.step == 5
    assert set(history[0]) >= LOSSES | {"gradient_norm", "foreground_rois", "images"}
    parts = sum(value for name, value in history[0].items() if name in LOSSES - {"loss/total"})
    assert history[0]["loss/total"] == pytest.approx(parts, rel=1e-5)
    assert history[0]["loss/total"] > 0 and history[0]["foreground_rois"] > 1
    assert history[-1]["loss/total"] < history[0]["loss/total"]


def test_the_old_state_is_given_away():
    one = trainer(1)
    state = one.start()
    after, _ = one.run(state, tiny.make_batch(8))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_fillers_are_no_images():
    # Metrics and gradient are means over the valid images; the content of fillers does not matter.
    one = trainer(1)
    valid = jnp.arange(8) < 3
    batch, other = tiny.make_batch(8), tiny.make_batch(8, seed=4)
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:3], b[3:]]), batch, other)
    results = [one.run(one.start(), candidate.replace(valid=valid)) for candidate in (batch, mixed)]
    (state, metrics), (other_state, other_metrics) = results
    assert metrics == other_metrics and metrics["images"] == 3
    jax.tree.map(np.testing.assert_array_equal, state.params, other_state.params)
    nothing, metrics = one.run(one.start(), batch.replace(valid=valid & False))
    assert metrics["images"] == metrics["loss/total"] == metrics["gradient_norm"] == 0


def test_one_compilation_per_canvas():
    one = Trainer(replace(tiny.MODEL), 1)
    one.step = jax.jit(one.step.__wrapped__) if False else trainer(1).step
    before = one.step._cache_size()
    for canvas in ((64, 64), (64, 96), (64, 64), (64, 96)):
        state, metrics = one.run(one.start(), tiny.make_batch(8, canvas))
        assert np.isfinite(metrics["loss/total"])
    assert one.step._cache_size() == 2 and before <= 1
