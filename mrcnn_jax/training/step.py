"""One optimizer step, data-parallel: each device differentiates its own images, one reduction, one update."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from mrcnn_jax.config import TargetsConfig
from mrcnn_jax.detection.objective import Objective, compute_objective
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import Batch
from mrcnn_jax.training.sharding import DATA_AXIS
from mrcnn_jax.training.state import TrainState

Metrics = dict[str, jax.Array]


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    model: MaskRCNN,
    optimizer: optax.GradientTransformation,
    targets: TargetsConfig,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one step and the mean metrics of the batch, float32 scalars. Pure.

    Under `shard_map` over `axis_name`, `batch` holds this device's images, and gradients, metrics and the image count
    are summed over the axis: the only thing that devices tell each other (beside sync_bn's statistics).
    """

    def summed_loss(params: dict) -> tuple[jax.Array, Objective]:
        objective = compute_objective(params, state.model_state, batch, key, model=model, targets=targets)
        return objective.total, objective

    gradients, objective = jax.grad(summed_loss, has_aux=True)(state.params)
    sums = (gradients, objective.sums, objective.num_images)
    gradients, metrics, num_images = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    mean_over_images = 1.0 / jnp.maximum(num_images, 1.0)
    gradients, metrics = jax.tree.map(lambda total: total * mean_over_images, (gradients, metrics))
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        model_state=objective.model_state,
        opt_state=opt_state,
    )
    return state, {**metrics, "gradient_norm": optax.tree.norm(gradients), "images": num_images}


def make_train_step(
    mesh: Mesh, *, model: MaskRCNN, optimizer: optax.GradientTransformation, targets: TargetsConfig
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """Returns `train_step` over a mesh: batch split along `data`, state replicated. The caller jits it."""
    model = model.clone(axis_name=DATA_AXIS)

    def per_device(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        return train_step(state, batch, key, model=model, optimizer=optimizer, targets=targets, axis_name=DATA_AXIS)

    whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
    # check_vma off: gradients of replicated parameters stay local until the one psum above.
    return jax.shard_map(
        per_device, mesh=mesh, in_specs=(whole, split, whole), out_specs=(whole, whole), check_vma=False
    )
