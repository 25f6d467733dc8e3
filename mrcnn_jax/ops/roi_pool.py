"""The alternatives to RoIAlign (paper section 3, table 2c): RoIPool, the quantised RoIs of RoIWarp, and maxima.

RoIPool (Fast R-CNN) rounds a RoI to whole cells of its level, and then its bins to whole cells. RoIWarp (arXiv
1512.04412) rounds only the RoI and interpolates inside it, so it is RoIAlign of the rounded RoI. Each of them takes the
maximum or the average of a bin. No gradient flows into the RoIs. Shapes are those of `roi_align`.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrcnn_jax.integers import ceil_div
from mrcnn_jax.ops.boxes import split_boxes

Reduce = Literal["average", "max"]

CHUNK = 16
"""RoIs that are averaged at a time."""

BLOCK = 16
"""Channels whose window maxima are held at a time; these maxima are dozens of copies of a large map."""


def quantise_rois(rois: Float[Array, "n 4"], levels: Int[Array, "n"], strides: Sequence[int]) -> Float[Array, "n 4"]:
    """Returns the RoIs rounded to whole cells of their level, in pixels; the cells of both corners belong to a RoI."""
    stride = jnp.asarray(np.asarray(strides, np.float32))[levels]  # [n]
    x0, y0, x1, y1 = (jnp.floor(side / stride + 0.5) for side in split_boxes(rois))
    corners = (x0, y0, jnp.maximum(x1, x0) + 1.0, jnp.maximum(y1, y0) + 1.0)
    return jax.lax.stop_gradient(jnp.stack([corner * stride for corner in corners], axis=-1))


def largest_samples(samples: Float[Array, "n R R C"], ratio: int) -> Float[Array, "n S S C"]:
    """Returns the maximum of each block of ratio x ratio samples; R = S * ratio."""
    count, side, _, channels = samples.shape
    grid = samples.reshape(count, side // ratio, ratio, side // ratio, ratio, channels)
    # In pairs: the gradient of a single maximum divides by the number of samples that equal it, which is 0 if the
    # compiler recomputes the samples with another rounding.
    return functools.reduce(jnp.maximum, [grid[:, :, i, :, j] for i in range(ratio) for j in range(ratio)])


def bin_borders(
    first: Int[Array, "n"], length: Int[Array, "n"], size: int, end: Int[Array, "n"]
) -> tuple[Int[Array, "n S"], Int[Array, "n S"]]:
    """Returns the first cell of each bin along one axis and the one after its last, clipped to [0, end].

    `length` whole cells from `first` on are divided into `size` bins, which are rounded outwards and may overlap.
    """
    bins, first, length, end = jnp.arange(size)[None], first[:, None], length[:, None], end[:, None]
    start = first + bins * length // size
    stop = first - (-(bins + 1) * length // size)
    return jnp.clip(start, 0, end), jnp.clip(stop, 0, end)


def pool_whole_cells(
    features: Sequence[Float[Array, "_ _ C"]],
    rois: Float[Array, "n 4"],
    levels: Int[Array, "n"],
    extents: Int[Array, "l 2"],
    *,
    strides: Sequence[int],
    output_size: int,
    reduce: Reduce,
) -> Float[Array, "n S S C"]:
    """Returns the RoIPool features of each RoI from its own level, in the features' dtype; bins without cells are 0.

    `extents` holds the number of rows and columns of each level that belong to the image. RoIs must not be longer than
    the map.
    """
    stride = jnp.asarray(np.asarray(strides, np.float32))[levels]  # [n]
    x0, y0, x1, y1 = ((side / stride).astype(jnp.int32) for side in split_boxes(quantise_rois(rois, levels, strides)))
    ends = extents[levels]  # [n, 2]
    rows = bin_borders(y0, y1 - y0, output_size, ends[:, 0])
    columns = bin_borders(x0, x1 - x0, output_size, ends[:, 1])
    pool = _largest if reduce == "max" else _average
    return pool([feature.astype(jnp.float32) for feature in features], levels, rows, columns).astype(features[0].dtype)


Borders = tuple[Array, Array]
"""The first cell of each RoI's bins along one axis and the cell after the last, each [n, S]."""


def _largest(features: list[Array], levels: Array, rows: Borders, columns: Borders) -> Array:
    """Returns the largest value of each bin, [n, S, S, C].

    Along each axis, a bin is covered by two overlapping windows with the largest power of two that fits as their side.
    Given the maxima of all such windows, a bin takes four gathers.
    """

    def per_roi(values: Array) -> Array:
        return values[:, None, None]

    size = rows[0].shape[1]
    longest = max(
        ceil_div(max(feature.shape[:2]), size) + 1 for feature in features
    )  # most cells of a bin along an axis
    orders = longest.bit_length()
    shapes = np.array([feature.shape[:2] for feature in features])
    starts = np.concatenate([[0], np.cumsum(orders**2 * shapes.prod(axis=1))[:-1]])
    heights, widths, first = (jnp.asarray(values, jnp.int32)[levels] for values in (*shapes.T, starts))
    order_y, ys = _two_windows(rows, orders)
    order_x, xs = _two_windows(columns, orders)
    table = per_roi(first) + (order_y[:, :, None] * orders + order_x[:, None, :]) * per_roi(heights * widths)
    corners = [table + y[:, :, None] * per_roi(widths) + x[:, None, :] for y in ys for x in xs]  # each [n, S, S]

    @jax.checkpoint
    def pool(block: list[Array]) -> Array:
        tables = [_window_maxima(feature, orders) for feature in block]
        flat = jnp.concatenate([table.reshape(-1, table.shape[-1]) for table in tables])
        return functools.reduce(jnp.maximum, [flat[index] for index in corners])  # [n, S, S, BLOCK]

    channels = features[0].shape[-1]
    block = BLOCK if channels % BLOCK == 0 else channels
    blocks = [jnp.moveaxis(f.reshape(*f.shape[:2], -1, block), 2, 0) for f in features]  # each [C / BLOCK, H, W, BLOCK]
    largest = jnp.moveaxis(jax.lax.map(pool, blocks), 0, 3).reshape(*corners[0].shape, channels)
    return jnp.where(_has_cells(rows, columns)[..., None], largest, 0.0)


def _window_maxima(feature: Array, orders: int) -> Array:
    """Returns [orders, orders, H, W, C]: [k, l, y, x] is the maximum of the 2**k x 2**l cells from (y, x) on.

    The values of windows that reach past the end of the map are meaningless.
    """

    def grow(maps: Array, axis: int) -> Array:
        tables = [maps]
        for order in range(1, orders):
            tables.append(jnp.maximum(tables[-1], jnp.roll(tables[-1], -(2 ** (order - 1)), axis)))
        return jnp.stack(tables)

    return jnp.moveaxis(grow(grow(feature, 0), 2), 0, 1)


def _two_windows(borders: Borders, orders: int) -> tuple[Array, tuple[Array, Array]]:
    """Returns the order of the two windows that cover each bin, and their first cells, all [n, S]."""
    start, stop = borders
    powers = jnp.asarray(2 ** np.arange(1, orders), jnp.int32)
    order = jnp.sum((stop - start)[..., None] >= powers[None, None], axis=-1)
    return order, (start, jnp.maximum(stop - 2**order, start))


def _average(features: list[Array], levels: Array, rows: Borders, columns: Borders) -> Array:
    """Returns the average of each bin, [n, S, S, C], by two matrix products with the whole map."""

    def pool(level: Array, rows: Borders, columns: Borders) -> Array:
        pooled = jnp.float32(0.0)
        for index, feature in enumerate(features):
            weights = [_weights(borders, side) for borders, side in zip((rows, columns), feature.shape, strict=False)]
            average = jnp.einsum("sh,hwc,tw->stc", weights[0], feature, weights[1], precision="highest")
            pooled = pooled + jnp.where(level == index, average, 0.0)
        return pooled

    return jax.lax.map(lambda row: pool(*row), (levels, rows, columns), batch_size=CHUNK)


def _weights(borders: Borders, num_cells: int) -> Array:
    """Returns the weight [S, L] of each cell in each bin of one RoI."""
    start, stop = borders
    cells = jnp.arange(num_cells)[None]
    inside = (cells >= start[:, None]) & (cells < stop[:, None])
    return inside / jnp.maximum(stop - start, 1).astype(jnp.float32)[:, None]


def _has_cells(rows: Borders, columns: Borders) -> Bool[Array, "n S S"]:
    return (rows[1] > rows[0])[:, :, None] & (columns[1] > columns[0])[:, None, :]
