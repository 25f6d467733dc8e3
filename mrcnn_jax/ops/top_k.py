"""The exact k largest of many values, in a form for which a GPU does not sort all of them."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mrcnn_jax.integers import ceil_div
from mrcnn_jax.platforms import choose_form


def find_largest(values: Float[Array, "n"], k: int) -> tuple[Float[Array, "k"], Int[Array, "k"]]:
    """Returns the k largest values in descending order and their indices, in the order of `jax.lax.top_k`.

    Ties go to the lowest index. XLA for GPUs sorts a whole row for its top k, so GPUs search in two steps.
    """
    size = best_group_size(values.shape[0], k)
    whole = partial(find_in_groups, k=k, size=1)
    if size == 1:
        return whole(values)
    in_groups = partial(find_in_groups, k=k, size=size)
    return choose_form(values, gpu=in_groups, default=whole)


def best_group_size(count: int, k: int) -> int:
    """Returns the size of a group with which the two steps sort the fewest values, or 1 for a single step."""
    size = max(round((count / max(k, 1)) ** 0.5), 1)
    num_groups = ceil_div(count, size)
    return size if k <= num_groups and num_groups + k * size < count else 1


def find_in_groups(values: Float[Array, "n"], *, k: int, size: int) -> tuple[Float[Array, "k"], Int[Array, "k"]]:
    """Returns the same as `find_largest`: first the k best groups of `size` neighbours, then their k largest values.

    No other group contains one of the k largest: each of the k groups has a larger value, or an equal one before it.
    """
    if size == 1:
        largest, index = jax.lax.top_k(values, k)
        return largest, index
    padding = -len(values) % size
    groups = jnp.pad(values, (0, padding), constant_values=-jnp.inf).reshape(-1, size)
    chosen = jnp.sort(jax.lax.top_k(jnp.max(groups, axis=1), k)[1])  # in index order, for ties
    largest, place = jax.lax.top_k(groups[chosen].reshape(-1), k)
    return largest, chosen[place // size] * size + place % size
