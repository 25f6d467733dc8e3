"""An exponential moving average of the parameters, which is saved and resumed as part of the optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mrcnn_jax.training.state import TrainState


class AverageState(NamedTuple):
    """State of `track_average`."""

    num_averaged: jax.Array  # [] int32
    averaged_params: Any  # same structure as the parameters; optax.MaskedNode if not trained


def track_average(decay: float) -> optax.GradientTransformation:
    """Returns a transformation that averages the updated parameters and leaves the updates unchanged; place it last.

    After n updates the decay is at most (1 + n) / (10 + n), so that the initial values are soon forgotten.
    """

    def init(params: Any) -> AverageState:
        # These are copies, because the step's state is donated and no buffer can be donated twice.
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: AverageState, params: Any = None) -> tuple[Any, AverageState]:
        share = jnp.maximum(1.0 - decay, 9.0 / (10.0 + state.num_averaged))
        params = optax.apply_updates(params, updates)
        average = optax.incremental_update(params, state.averaged_params, share)
        return updates, AverageState(state.num_averaged + 1, average)

    return optax.GradientTransformation(init, update)


def averaged_params(state: TrainState) -> Any:
    """Returns the parameters with averages in place of those that are averaged; without averaging, none are."""
    average = optax.tree.get(state.opt_state, "averaged_params")
    if average is None:
        return state.params
    is_masked = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(lambda mean, leaf: leaf if is_masked(mean) else mean, average, state.params, is_leaf=is_masked)
