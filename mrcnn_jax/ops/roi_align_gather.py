"""RoIAlign as one weighted sum of cells of the flattened pyramid: the form for GPUs and TPUs.

Shapes: n RoIs, S output side, C channels, H x W map of one level, k cells per bin, m bins.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mrcnn_jax.integers import ceil_div
from mrcnn_jax.ops.roi_align_loops import CellRois

TILE_ROWS = 16
"""Levels start at multiples of this many cells in the flattened pyramid, so that a TPU need not rearrange tiles."""


def align_by_gather(
    features: Sequence[Float[Array, "_ _ C"]],
    sets: Sequence[CellRois],
    *,
    output_sizes: Sequence[int],
    sampling_ratio: int,
) -> list[Float[Array, "_ _ _ C"]]:
    """Returns the pooled features [n, S, S, C] of each set of RoIs, in the features' dtype."""
    shapes = np.asarray([feature.shape[:2] for feature in features])
    areas = ceil_div(shapes.prod(axis=1), TILE_ROWS) * TILE_ROWS
    flat = jnp.concatenate([_flatten(feature, area) for feature, area in zip(features, areas.tolist(), strict=True)])
    widths, firsts = jnp.asarray(shapes[:, 1], jnp.int32), jnp.asarray(np.cumsum(areas) - areas, jnp.int32)
    cells, slopes = collect_slopes(flat)
    pooled = []
    for rois, size in zip(sets, output_sizes, strict=True):
        terms = jax.vmap(partial(_terms, size, sampling_ratio))
        index, weights = terms(rois.starts, rois.sides, rois.ends, widths[rois.level], firsts[rois.level])
        index, weights = (x.swapaxes(0, 1) for x in (index, weights))  # [k, n, S, S]
        as_rows = [x.reshape(len(x), -1) for x in (index, weights)]
        summed, slopes = sum_cells(cells, slopes, *as_rows)
        pooled.append(summed.reshape(*index.shape[1:], -1).astype(flat.dtype))
    return pooled


def _flatten(feature: Array, num_rows: int) -> Array:
    """Returns a map [H, W, C] as [num_rows, C], with zeros at the end."""
    flat = feature.reshape(-1, feature.shape[-1])
    return jnp.pad(flat, ((0, num_rows - flat.shape[0]), (0, 0)))


@jax.custom_vjp
def collect_slopes(flat: Float[Array, "cells C"]) -> tuple[Float[Array, "cells C"], Float[Array, "cells C"]]:
    """Returns the cells, and a float32 array in whose gradient `sum_cells` accumulates the gradient of the cells.

    The values of the array are never read. It is derived from the cells so that `vmap` batches it in the same way.
    """
    return flat, flat.astype(jnp.float32)


def _collect_slopes_backward(_: None, gradients: tuple[Array, Array]) -> tuple[Array]:
    of_cells, of_slopes = gradients  # the first is zero, since `sum_cells` adds to the second
    return (of_slopes.astype(of_cells.dtype),)


collect_slopes.defvjp(lambda flat: (collect_slopes(flat), None), _collect_slopes_backward)


@jax.custom_vjp
def sum_cells(
    cells: Float[Array, "cells C"],
    slopes: Float[Array, "cells C"],
    index: Int[Array, "k m"],
    weights: Float[Array, "k m"],
) -> tuple[Float[Array, "m C"], Float[Array, "cells C"]]:
    """Returns the weighted sum of k cells for each of m bins, float32, and `slopes` unchanged.

    Cells are read in their own dtype. Their gradient is accumulated in that of `slopes`, in float32: many bins share a
    cell, and a bfloat16 counter stops at 256. The weights get no gradient.
    """
    return jnp.sum(cells[index].astype(jnp.float32) * weights[..., None], axis=0), slopes


def _sum_cells_backward(
    residuals: tuple[Array, Array], gradients: tuple[Array, Array]
) -> tuple[None, Array, None, None]:
    (index, weights), (of_sums, of_slopes) = residuals, gradients
    return None, of_slopes.at[index].add(weights[..., None] * of_sums[None]), None, None


sum_cells.defvjp(
    lambda cells, slopes, index, weights: (sum_cells(cells, slopes, index, weights), (index, weights)),
    _sum_cells_backward,
)


def _terms(
    size: int, ratio: int, start: Array, side: Array, extent: Array, width: Array, first: Array
) -> tuple[Int[Array, "k S S"], Float[Array, "k S S"]]:
    """Returns the cells that are summed into each bin, and their weights; k is four times the samples of a bin."""

    def by_bin(low: Array, high: Array) -> Array:  # [2 r, S] of two [S * r]
        return jnp.stack([low, high]).reshape(2, size, ratio).transpose(0, 2, 1).reshape(2 * ratio, size)

    def along(axis: int) -> tuple[Array, Array]:
        low, high, weight_low, weight_high = _corners(size * ratio, start[axis], side[axis], extent[axis])
        return by_bin(low, high), by_bin(weight_low, weight_high) / ratio

    (y, weights_y), (x, weights_x) = along(0), along(1)
    cells = first + y[:, None, :, None] * width + x[None, :, None, :]  # [2 r, 2 r, S, S]
    weights = weights_y[:, None, :, None] * weights_x[None, :, None, :]
    return cells.reshape(-1, size, size), weights.reshape(-1, size, size)


def _corners(count: int, start: Array, side: Array, length: Array) -> tuple[Array, Array, Array, Array]:
    """Returns the two cells around each of `count` samples along one axis, and their weights."""
    length = jnp.maximum(length, 1)
    position = start + (jnp.arange(count, dtype=jnp.float32) + 0.5) * side / count
    inside = ((position >= -1.0) & (position <= length)).astype(jnp.float32)
    position = jnp.clip(position, 0.0, length - 1.0)
    low = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, length - 1)
    high = jnp.minimum(low + 1, length - 1)
    weight_high = position - low
    return low, high, (1.0 - weight_high) * inside, weight_high * inside
