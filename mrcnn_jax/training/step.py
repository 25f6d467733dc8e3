"""One data-parallel optimizer step: gradients of each device's own images, one reduction, and one update."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from mrcnn_jax.config import TargetsConfig
from mrcnn_jax.detection.objective import Objective, compute_objective
from mrcnn_jax.mesh import DATA_AXIS
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import Batch
from mrcnn_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
Gradients = Any
"""A pytree like the parameters, float32."""


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    model: MaskRCNN,
    optimizer: optax.GradientTransformation,
    targets_config: TargetsConfig,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one step and the batch's mean metrics, float32 scalars; pure, on one device."""
    return apply_gradients(
        state, *compute_gradients(state, batch, key, model=model, targets_config=targets_config), optimizer
    )


def compute_gradients(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    model: MaskRCNN,
    targets_config: TargetsConfig,
    axis_name: str | None = None,
    gradient_dtype: DTypeLike = jnp.float32,
) -> tuple[Gradients, dict[str, Any], Metrics]:
    """Returns the gradients of the mean loss over the valid images, the model's new statistics, and the mean metrics.

    Under `shard_map` over `axis_name`, `batch` contains this device's images, and gradients (in `gradient_dtype`),
    metrics and the image count are summed over the axis. Devices exchange nothing else, except for the statistics of
    sync_bn.
    """

    def summed_loss(params: dict) -> tuple[jax.Array, Objective]:
        objective = compute_objective(params, state.model_state, batch, key, model=model, targets_config=targets_config)
        return objective.total, objective

    gradients, objective = jax.grad(summed_loss, has_aux=True)(state.params)
    metrics, num_images = objective.sums, objective.num_images
    if axis_name is not None:
        gradients = jax.tree.map(lambda gradient: gradient.astype(gradient_dtype), gradients)
        gradients, metrics, num_images = jax.lax.psum((gradients, metrics, num_images), axis_name)
    mean_over_images = 1.0 / jnp.maximum(num_images, 1.0)
    gradients, metrics = jax.tree.map(lambda total: total.astype(jnp.float32) * mean_over_images, (gradients, metrics))
    return gradients, objective.model_state, {**metrics, "images": num_images}


def apply_gradients(
    state: TrainState,
    gradients: Gradients,
    model_state: dict[str, Any],
    metrics: Metrics,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and the metrics with the norm of the gradients added."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = TrainState(step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state)
    return state, {**metrics, "gradient_norm": optax.tree.norm(gradients)}


def make_train_step(
    mesh: Mesh,
    *,
    model: MaskRCNN,
    optimizer: optax.GradientTransformation,
    targets_config: TargetsConfig,
    gradient_dtype: DTypeLike = jnp.float32,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """Returns `train_step` over a mesh: the batch is split along `data`, and parameters are replicated.

    Gradients are exchanged in `gradient_dtype`. `training.training_program` jits the step with the shardings of
    `training.state.state_sharding`.
    """
    model = model.clone(axis_name=DATA_AXIS)

    def per_device(state: TrainState, batch: Batch, key: jax.Array) -> tuple[Gradients, dict[str, Any], Metrics]:
        return compute_gradients(
            state,
            batch,
            key,
            model=model,
            targets_config=targets_config,
            axis_name=DATA_AXIS,
            gradient_dtype=gradient_dtype,
        )

    whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
    # Without check_vma, gradients of replicated parameters stay local until the one psum above.
    compute = jax.shard_map(per_device, mesh=mesh, in_specs=(whole, split, whole), out_specs=whole, check_vma=False)

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        without_optimizer = dataclasses.replace(state, opt_state=None)  # it may be split over the devices
        return apply_gradients(state, *compute(without_optimizer, batch, key), optimizer)

    return step
