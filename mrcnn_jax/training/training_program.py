"""The training program of a configuration: its state, and the step, which is jitted only here."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax
from jax.sharding import Mesh

from mrcnn_jax.config import Config
from mrcnn_jax.mesh import batch_sharding, replicated
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.training.optimizer import make_optimizer
from mrcnn_jax.training.state import TrainState, create_train_state, state_sharding
from mrcnn_jax.training.step import make_train_step


@dataclass(frozen=True)
class TrainingProgram:
    """A jitted training step and the objects from which it was made."""

    model: MaskRCNN
    optimizer: optax.GradientTransformation
    create_state: Callable[[], TrainState]
    """Computes the initial state, which is the same on every host."""
    state_shapes: TrainState
    """The state with leaves of type `jax.ShapeDtypeStruct`."""
    state_shardings: TrainState
    """The sharding of each leaf: replicated or, in the optimizer's state with `train.shard_optimizer`, split."""
    step: jax.stages.Wrapped
    """Maps (state, batch, key) to (state, metrics). The batch is split over the mesh, and the state is donated."""


def make_training_program(config: Config, mesh: Mesh) -> TrainingProgram:
    """Returns the training program of `config` over all devices of `mesh`, without computing or compiling anything.

    The step respects all settings of `config.model`, `config.targets` and `config.train`, including `gradient_dtype`
    and `shard_optimizer`.
    """
    model = MaskRCNN(config.model)
    optimizer = make_optimizer(config.train, config.model)
    create_state = functools.partial(create_train_state, model, optimizer, config.train.seed)
    state_shapes = jax.eval_shape(create_state)
    state_shardings = state_sharding(mesh, state_shapes, shard_optimizer=config.train.shard_optimizer)
    step = make_train_step(
        mesh,
        model=model,
        optimizer=optimizer,
        targets_config=config.targets,
        gradient_dtype=config.train.gradient_dtype,
    )
    whole, split = replicated(mesh), batch_sharding(mesh)
    jitted = jax.jit(
        step,
        in_shardings=(state_shardings, split, whole),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
    )
    return TrainingProgram(model, optimizer, create_state, state_shapes, state_shardings, jitted)
