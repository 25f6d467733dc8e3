"""The programs that compute losses, which are jitted only here: the training step, and the loss without training."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh, PartitionSpec

from mrcnn_jax.config import Config, LossConfig, ModelConfig
from mrcnn_jax.detection.objective import evaluate_losses
from mrcnn_jax.mesh import DATA_AXIS, batch_sharding, replicated
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import Batch
from mrcnn_jax.training.optimizer import make_optimizer
from mrcnn_jax.training.state import TrainState, create_train_state, state_sharding
from mrcnn_jax.training.step import make_train_step

VALIDATION_KEY = 0x76616C
"""Number that is folded into the run's seed, so that the validation loss shares no random numbers with training."""


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


def make_loss_program(model_config: ModelConfig, loss_config: LossConfig, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the jitted function that maps (variables, batch) to each loss term of each image and their "total".

    Each is float32 [B], and the batch is split over the mesh. Anchors and RoIs are sampled by the seed and each image's
    `sample_index` alone. With one image per device, no image's losses depend on another image or on its place.
    """
    model = MaskRCNN(model_config)

    def per_device(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(loss_config.seed), VALIDATION_KEY)
        return evaluate_losses(variables, batch, key, model=model, targets_config=loss_config.targets)

    whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
    sharded = jax.shard_map(per_device, mesh=mesh, in_specs=(whole, split), out_specs=split, check_vma=False)
    return jax.jit(sharded, in_shardings=(replicated(mesh), batch_sharding(mesh)))
