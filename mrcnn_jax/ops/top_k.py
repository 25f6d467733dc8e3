"""The k largest of many values, exact, in a form that a GPU need not sort all of them for."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mrcnn_jax.platforms import choose_form


def find_largest(values: Float[Array, "n"], k: int) -> tuple[Float[Array, "k"], Int[Array, "k"]]:
    """Returns the k largest values in descending order and their indices, as `jax.lax.top_k`: ties by lowest index.

    XLA for GPUs sorts a whole row for its top k, so GPUs look for it in two steps.
    """
    size = best_group_size(values.shape[0], k)
    whole = partial(find_in_groups, k=k, size=1)
    if size == 1:
        return whole(values)
    in_groups = partial(find_in_groups, k=k, size=size)
    return choose_form(values, gpu=in_groups, default=whole)


def best_group_size(count: int, k: int) -> int:
    """Returns how many of `count` values form a group, so that the two steps sort the fewest: 1 for a single step."""
    size = max(round((count / max(k, 1)) ** 0.5), 1)
    num_groups = -(-count // size)
    return size if k <= num_groups and num_groups + k * size < count else 1


def find_in_groups(values: Float[Array, "n"], *, k: int, size: int) -> tuple[Float[Array, "k"], Int[Array, "k"]]:
    """Returns the same: the k best groups of `size` neighbours first, then the k largest of their values.

    No value of another group is among the k largest: each of the k groups has one that is larger, or equal and before.
    """
    if size == 1:
        largest, index = jax.lax.top_k(values, k)
        return largest, index
    padding = -len(values) % size
    groups = jnp.pad(values, (0, padding), constant_values=-jnp.inf).reshape(-1, size)
    chosen = jnp.sort(jax.lax.top_k(jnp.max(groups, axis=1), k)[1])  # in their order, for ties
    largest, place = jax.lax.top_k(groups[chosen].reshape(-1), k)
    return largest, chosen[place // size] * size + place % size
