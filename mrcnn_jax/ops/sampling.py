"""Balanced random sampling of foreground and background with static shapes. Shapes: n candidates, s samples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from mrcnn_jax.ops.matching import Match
from mrcnn_jax.ops.top_k import find_largest


class BalancedSample(NamedTuple):
    """Chosen candidates, foreground first; slots that could not be filled are invalid and point to candidate 0."""

    indices: Int[Array, "s"]
    is_foreground: Bool[Array, "s"]
    valid: Bool[Array, "s"]


def _choose(eligible: Bool[Array, "n"], count: int, priority: Array) -> tuple[Array, Array]:
    """Returns `count` eligible indices, drawn uniformly without replacement, and their validity."""
    value, index = find_largest(jnp.where(eligible, priority, -1.0), min(count, eligible.shape[0]))
    missing = count - index.shape[0]
    return jnp.pad(index, (0, missing)), jnp.pad(value >= 0.0, (0, missing))


def sample_balanced(
    states: Int[Array, "n"], *, num_samples: int, max_foreground: int, key: Key[Array, ""]
) -> BalancedSample:
    """Returns `num_samples` slots: up to `max_foreground` random foreground candidates, then random background.

    Background fills the remaining slots, so all slots are valid if there are enough candidates.
    """
    foreground_key, background_key = jax.random.split(key)
    foreground, foreground_valid = _choose(
        states == Match.FOREGROUND, max_foreground, jax.random.uniform(foreground_key, states.shape)
    )
    background, background_valid = _choose(
        states == Match.BACKGROUND, num_samples, jax.random.uniform(background_key, states.shape)
    )
    index = jnp.concatenate([foreground, background])  # [max_foreground + num_samples]
    valid = jnp.concatenate([foreground_valid, background_valid])
    is_foreground = jnp.arange(index.shape[0]) < max_foreground
    kept = jnp.argsort(~valid, stable=True)[:num_samples]  # valid slots first, foreground before background
    index, valid, is_foreground = index[kept], valid[kept], is_foreground[kept]
    return BalancedSample(jnp.where(valid, index, 0).astype(jnp.int32), is_foreground & valid, valid)
