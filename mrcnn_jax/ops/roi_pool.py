"""What RoIAlign is compared with (paper section 3, table 2c): RoIPool, the quantised RoI of RoIWarp, and maxima.

RoIPool (Fast R-CNN) rounds a RoI to whole cells of its map, and its bins to whole cells again. RoIWarp (arXiv
1512.04412) rounds the RoI only and interpolates inside, so it is RoIAlign of the rounded RoI. Each comes with the
maximum or the average of a bin. RoIs carry no gradient. Shapes as in `roi_align`.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrcnn_jax.ops.boxes import split_boxes

Reduce = Literal["average", "max"]

CHUNK_VALUES = 2**23
"""Values of the maps, once for each row of bins, that are compared at a time."""


def quantise_rois(rois: Float[Array, "n 4"], levels: Int[Array, "n"], strides: Sequence[int]) -> Float[Array, "n 4"]:
    """Returns the RoIs on whole cells of their level, in pixels: corners are rounded, both belong to the RoI."""
    stride = jnp.asarray(np.asarray(strides, np.float32))[levels]  # [n]
    x0, y0, x1, y1 = (jnp.floor(side / stride + 0.5) for side in split_boxes(rois))
    corners = (x0, y0, jnp.maximum(x1, x0) + 1.0, jnp.maximum(y1, y0) + 1.0)
    return jax.lax.stop_gradient(jnp.stack([corner * stride for corner in corners], axis=-1))


def reduce_samples(samples: Float[Array, "n R R C"], ratio: int, reduce: Reduce) -> Float[Array, "n S S C"]:
    """Returns the maximum or the average of each ratio x ratio samples: R = S * ratio."""
    count, side, _, channels = samples.shape
    grid = samples.reshape(count, side // ratio, ratio, side // ratio, ratio, channels)
    return grid.max(axis=(2, 4)) if reduce == "max" else grid.mean(axis=(2, 4))


def bin_cells(
    first: Float[Array, ""], length: Float[Array, ""], size: int, num_cells: int, end: Int[Array, ""] | int
) -> Bool[Array, "S L"]:
    """Returns which of `num_cells` cells, of which `end` are the picture's, lie in which of the bins along one axis.

    `length` whole cells from `first` on are divided by `size`; bins are rounded outwards, so neighbours may overlap.
    """
    bins = jnp.arange(size)
    first, length = first.astype(jnp.int32), length.astype(jnp.int32)
    start = jnp.clip(first + bins * length // size, 0, end)
    stop = jnp.clip(first - (-(bins + 1) * length // size), 0, end)
    cells = jnp.arange(num_cells)
    return (cells[None, :] >= start[:, None]) & (cells[None, :] < stop[:, None])


def pool_whole_cells(
    features: Sequence[Float[Array, "_ _ C"]],
    rois: Float[Array, "n 4"],
    levels: Int[Array, "n"],
    extents: Int[Array, "l 2"] | None = None,
    *,
    strides: Sequence[int],
    output_size: int,
    reduce: Reduce,
) -> Float[Array, "n S S C"]:
    """Returns RoIPool's features of each RoI from its own level, in the features' dtype; bins without cells are 0.

    `extents` are the rows and columns of each level that belong to the picture; all by default. Made to compare, not
    for speed: every bin looks at the whole map.
    """
    x0, y0, x1, y1 = split_boxes(quantise_rois(rois, levels, strides))

    @jax.checkpoint  # else every map would be kept for every RoI and row of bins
    def pool(x0: Array, y0: Array, x1: Array, y1: Array, level: Array) -> Array:
        pooled = jnp.float32(0.0)
        for index, (feature, stride) in enumerate(zip(features, strides, strict=True)):
            height, width, _ = feature.shape
            ends = (height, width) if extents is None else (extents[index, 0], extents[index, 1])
            rows = bin_cells(y0 / stride, (y1 - y0) / stride, output_size, height, ends[0])
            columns = bin_cells(x0 / stride, (x1 - x0) / stride, output_size, width, ends[1])
            reduced = _reduce_cells(feature.astype(jnp.float32), rows, columns, reduce)
            pooled = pooled + jnp.where(level == index, reduced, 0.0)
        return pooled

    values = output_size * sum(feature.size for feature in features)
    chunk = max(1, min(rois.shape[0], CHUNK_VALUES // values))
    pooled = jax.lax.map(lambda row: pool(*row), (x0, y0, x1, y1, levels), batch_size=chunk)
    return pooled.astype(features[0].dtype)


def _reduce_cells(feature: Array, rows: Array, columns: Array, reduce: Reduce) -> Array:
    """Returns [S, S, C] of a map [H, W, C] for bins of `rows` [S, H] and `columns` [S, W], 0 where there are none."""
    if reduce == "average":
        weights = [cells / jnp.maximum(cells.sum(axis=1, keepdims=True), 1) for cells in (rows, columns)]
        return jnp.einsum("sh,hwc,tw->stc", weights[0], feature, weights[1], precision="highest")
    lowest = jnp.float32(-jnp.inf)
    by_rows = jnp.where(rows[:, :, None, None], feature[None], lowest).max(axis=1)  # [S, W, C]
    largest = jnp.where(columns[None, :, :, None], by_rows[:, None], lowest).max(axis=2)  # [S, S, C]
    return jnp.where(rows.any(axis=1)[:, None, None] & columns.any(axis=1)[None, :, None], largest, 0.0)
