"""The step of the tiny model, compiled once for each number of devices."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import pytest

from mrcnn_jax.config import Config, ModelConfig, TrainConfig
from mrcnn_jax.mesh import batch_sharding, make_mesh, replicated
from mrcnn_jax.structures import Batch
from mrcnn_jax.training.state import TrainState, make_train_state
from mrcnn_jax.training.training_program import TrainingProgram, make_training_program
from tests import tiny

TRAIN = TrainConfig(warmup_steps=1000, warmup_factor=0.001, learning_rate=0.02)
# Room for all proposals: a random choice among them would depend on their order, and rounding on equal scores.
TARGETS = replace(tiny.TARGETS, roi_samples=64, roi_foreground_fraction=0.5)


class Trainer:
    """The training program of one model on some devices."""

    def __init__(self, model_config: ModelConfig, num_devices: int):
        self.config, self.mesh = model_config, make_mesh(jax.devices()[:num_devices])
        self.program = self.make_program()
        self.optimizer, self.step = self.program.optimizer, self.program.step

    def make_program(self, **choices: Any) -> TrainingProgram:
        """The training program with other choices in its TrainConfig."""
        return make_training_program(
            Config(model=self.config, targets=TARGETS, train=replace(TRAIN, **choices)), self.mesh
        )

    def start(self) -> TrainState:
        """A fresh state on the devices."""
        # Small last layers, as training starts with: proposals and losses hardly magnify rounding.
        variables = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * (0.1 if path[-2].key in ("objectness", "deltas", "logits") else 1.0),
            tiny.make_variables(self.config),
        )
        return jax.device_put(make_train_state(variables, self.optimizer), replicated(self.mesh))

    @functools.cached_property
    def compiled(self) -> jax.stages.Compiled:
        """The program for a batch of eight images of 64 x 64."""
        return self.compile(tiny.make_batch(8))

    def compile(self, batch: Batch) -> jax.stages.Compiled:
        """The program for such a batch."""
        return self.step.lower(self.start(), batch, jax.random.key(0)).compile()

    def run(self, state: TrainState, batch: Batch, step: Callable | None = None) -> tuple[TrainState, dict[str, float]]:
        """The next state and the metrics; `step` is `self.step` by default."""
        batch = jax.device_put(batch, batch_sharding(self.mesh))
        key = jax.device_put(jax.random.key(0), replicated(self.mesh))
        state, metrics = (step or self.step)(state, batch, key)
        return state, {name: float(value) for name, value in metrics.items()}


@pytest.fixture(scope="session")
def trainer() -> Callable[[int], Trainer]:
    """The trainer of the tiny model on so many devices."""
    return functools.cache(lambda num_devices: Trainer(tiny.MODEL, num_devices))


@pytest.fixture(scope="session")
def make_trainer() -> Callable[[ModelConfig, int], Trainer]:
    return Trainer
