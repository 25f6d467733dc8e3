"""The training state, which a step takes and returns and a checkpoint contains."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrcnn_jax.mesh import DATA_AXIS, replicated
from mrcnn_jax.models.mask_rcnn import MaskRCNN, init_variables


@flax.struct.dataclass
class TrainState:
    """Parameters, the model's other collections, optimizer state and the number of steps done."""

    step: jax.Array  # [] int32
    params: dict[str, Any]
    model_state: dict[str, Any]  # `frozen` constants or `batch_stats`; empty for group norm
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """All collections in the form that `model.apply` takes."""
        return {"params": self.params, **self.model_state}


def create_train_state(model: MaskRCNN, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Returns the state before the first step, which for a given seed is the same on every host."""
    return make_train_state(init_variables(model, seed), optimizer)


def make_train_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """Returns a state at step 0 with the given variables."""
    model_state = {name: collection for name, collection in variables.items() if name != "params"}
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, model_state=model_state, opt_state=optimizer.init(params)
    )


def state_sharding(mesh: Mesh, state: TrainState, *, shard_optimizer: bool = False) -> TrainState:
    """Returns the sharding of each leaf of the state (arrays or shapes): replicated, or split over the devices.

    With `shard_optimizer`, the leaves of the optimizer's state are split along their longest dimension that is
    divisible by the number of devices (the first stage of ZeRO, arXiv 1910.02054); leaves without one are replicated.
    """

    def split(leaf: Any) -> NamedSharding:
        lengths = [length if length % mesh.size == 0 else 0 for length in leaf.shape]
        if not any(lengths):
            return replicated(mesh)
        axis = int(np.argmax(lengths))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA_AXIS))

    shardings = jax.tree.map(lambda leaf: replicated(mesh), state)
    return shardings.replace(opt_state=jax.tree.map(split, state.opt_state)) if shard_optimizer else shardings
