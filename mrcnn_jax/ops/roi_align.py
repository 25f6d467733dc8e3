"""RoIAlign over a feature pyramid (paper section 3) and the pyramid level of each RoI (FPN, equation 1).

Every bin is the exact average of bilinear samples, as in torchvision and Detectron2: samples more than one cell outside
the map count as 0, others are clamped to it. The map ends where the picture's own extent does: what lies beyond is
padding. RoIs carry no gradient. Shapes: n RoIs, S output side, C channels, l levels, H x W the map of one level. Sizes
in cells are pixels divided by the level's stride.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mrcnn_jax.ops.boxes import box_areas, split_boxes
from mrcnn_jax.ops.roi_align_loops import CellRois, align_in_loops

CANONICAL_SIZE, CANONICAL_LEVEL = 224.0, 2
"""A RoI of this side, in pixels, belongs to P4, the level of this index."""

TILE_ROWS = 16
"""Levels start at multiples of this many cells in the flattened pyramid, so that a TPU puts them there as they are."""

DENSE_VALUES = 2**23
"""Intermediate values of the dense form that are held at a time."""

GATHER_COST = 20
"""What gathering one value costs in multiply-adds of the dense form (measured on a CPU, 96 to 256 channels)."""


def assign_levels(
    rois: Float[Array, "n 4"], num_levels: int, *, eps_in_log: float = 1e-8, eps_after_log: float = 0.0
) -> Int[Array, "n"]:
    """Returns the pyramid level of each RoI, 0 for P2, the finest: floor(2 + log2(sqrt(area) / 224)).

    The two eps, inside and outside of the logarithm, decide RoIs of exactly 112, 224 or 448 pixels.
    """
    side = jnp.sqrt(jnp.maximum(box_areas(rois), 1e-12))
    level = jnp.floor(CANONICAL_LEVEL + jnp.log2(side / CANONICAL_SIZE + eps_in_log) + eps_after_log)
    return jnp.clip(level, 0, num_levels - 1).astype(jnp.int32)


def align_rois(
    features: Sequence[Float[Array, "_ _ C"]],
    rois: Float[Array, "n 4"],
    levels: Int[Array, "n"],
    extents: Int[Array, "l 2"] | None = None,
    *,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Array, "n S S C"]:
    """Returns the pooled features of each RoI from its own level, in the features' dtype.

    `extents` are the rows and columns of each level that belong to the picture; all by default.

    `sampling_ratio` samples per bin and axis; 0 is adaptive, ceil(RoI side in cells / S) for each RoI and axis.
    `aligned` shifts by half a cell so that pixel centres lie at +0.5; without it sides below one cell count as one.
    """
    shapes = np.asarray([feature.shape[:2] for feature in features])
    extents = jnp.asarray(shapes, jnp.int32) if extents is None else extents
    choices: dict[str, Any] = {"strides": strides, "output_size": output_size, "aligned": aligned}
    dense, loops, gather = (
        partial(form, sampling_ratio=sampling_ratio, **choices)
        for form in (align_rois_dense, _align_in_loops, _align_by_gather)
    )
    inputs = (tuple(features), jax.lax.stop_gradient(rois), levels, extents)
    if _is_dense_cheaper(shapes, output_size, sampling_ratio):
        return dense(*inputs)
    return jax.lax.platform_dependent(*inputs, cpu=loops, default=gather if sampling_ratio else dense)


def _align_in_loops(
    features: Any, rois: Array, levels: Array, extents: Array, *, strides: Sequence[int], aligned: bool, **bins: int
) -> Array:
    starts, sides = _roi_in_cells(rois, jnp.asarray(1.0 / np.asarray(strides, np.float32))[levels], aligned)
    in_cells = CellRois(jnp.zeros_like(levels), levels, starts, sides, extents[levels])
    pooled = align_in_loops(features, in_cells, **bins)
    return pooled.astype(features[0].dtype)


def _align_by_gather(
    features: Any,
    rois: Array,
    levels: Array,
    extents: Array,
    *,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Array:
    """Returns the same as `align_rois`, as one weighted sum of cells of the flattened pyramid."""
    shapes = np.asarray([feature.shape[:2] for feature in features])
    areas = -(-shapes.prod(axis=1) // TILE_ROWS) * TILE_ROWS
    flat = jnp.concatenate([_flatten(feature, area) for feature, area in zip(features, areas.tolist(), strict=True)])
    starts, sides = _roi_in_cells(rois, jnp.asarray(1.0 / np.asarray(strides, np.float32))[levels], aligned)
    widths = jnp.asarray(shapes[:, 1], jnp.int32)[levels]  # [n]
    first = jnp.asarray(np.concatenate([[0], np.cumsum(areas)[:-1]]), jnp.int32)[levels]  # [n]
    terms = jax.vmap(partial(_terms, output_size, sampling_ratio))
    cells, weights = terms(starts, sides, extents[levels], widths, first)  # [n, 16 or so, S, S]
    cells, weights = (x.swapaxes(0, 1) for x in (cells, weights))
    summed = sum_cells(flat, cells.reshape(cells.shape[0], -1), weights.reshape(cells.shape[0], -1))
    return summed.reshape(*cells.shape[1:], -1).astype(features[0].dtype)


def _is_dense_cheaper(shapes: np.ndarray, output_size: int, sampling_ratio: int) -> bool:
    """Returns whether two products with the whole pyramid cost less than the gathers of one RoI: small images.

    There a CPU takes them, too: they are as fast as the loops, and compile in half the time.
    """
    dense = output_size * shapes.prod(axis=1).sum()
    gathered = 4 * (output_size * (sampling_ratio or 2)) ** 2
    return bool(dense < GATHER_COST * gathered)


def _roi_in_cells(rois: Array, scale: Array, aligned: bool) -> tuple[Array, Array]:
    """Returns start and side along (y, x) in cells, each [n, 2]; `scale` [n] or a scalar is 1 / stride."""
    x0, y0, x1, y1 = split_boxes(rois)
    scale = jnp.broadcast_to(scale, x0.shape)[:, None]
    starts = jnp.stack([y0, x0], axis=-1) * scale - (0.5 if aligned else 0.0)
    sides = jnp.stack([y1 - y0, x1 - x0], axis=-1) * scale
    return starts, sides if aligned else jnp.maximum(sides, 1.0)


def _flatten(feature: Array, num_rows: int) -> Array:
    """Returns [num_rows, C] of a map [H, W, C], with zeros at the end."""
    flat = feature.reshape(-1, feature.shape[-1])
    return jnp.pad(flat, ((0, num_rows - flat.shape[0]), (0, 0)))


@jax.custom_vjp
def sum_cells(
    flat: Float[Array, "cells C"], index: Int[Array, "k m"], weights: Float[Array, "k m"]
) -> Float[Array, "m C"]:
    """Returns the weighted sum of k cells for each of m bins, float32. Weights have no gradient.

    Cells are read in their own dtype, and their gradients add up in float32: many bins share a cell, and bfloat16 stops
    counting at 256.
    """
    return jnp.sum(flat[index].astype(jnp.float32) * weights[..., None], axis=0)


def _sum_cells_forward(flat: Array, index: Array, weights: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return sum_cells(flat, index, weights), (jnp.zeros_like(flat), index, weights)


def _sum_cells_backward(residuals: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, None, None]:
    zeros, index, weights = residuals
    terms = weights[..., None] * gradient[None]
    return zeros.astype(jnp.float32).at[index].add(terms).astype(zeros.dtype), None, None


sum_cells.defvjp(_sum_cells_forward, _sum_cells_backward)


def _terms(
    size: int, ratio: int, start: Array, side: Array, extent: Array, width: Array, first: Array
) -> tuple[Int[Array, "k S S"], Float[Array, "k S S"]]:
    """Returns the cells that each bin is the sum of, and their weights; k is four for each of its samples."""

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


def align_rois_dense(
    features: Sequence[Float[Array, "_ _ C"]],
    rois: Float[Array, "n 4"],
    levels: Int[Array, "n"],
    extents: Int[Array, "l 2"] | None = None,
    *,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Array, "n S S C"]:
    """Returns the same as `align_rois`, by two matrix products per level with the whole map.

    Bilinear weights are separable in y and x, so any number of samples folds into one [S, H] and one [S, W] matrix:
    adaptive sampling is exact at a static shape, for RoIs that are not longer than the map.
    """
    shapes = np.asarray([feature.shape[:2] for feature in features])
    extents = jnp.asarray(shapes, jnp.int32) if extents is None else extents
    most_rows, most_columns = shapes.max(axis=0).tolist()
    starts, sides = _roi_in_cells(rois, jnp.asarray(1.0 / np.asarray(strides, np.float32))[levels], aligned)

    def pool(roi: tuple[Array, Array, Array, Array]) -> Array:
        start, side, level, end = roi
        interpolate = partial(interpolation_matrix, output_size=output_size, sampling_ratio=sampling_ratio)
        all_rows = interpolate(start[:1], side[:1], most_rows, end=end[0])[0]  # [S, H] of the tallest map
        all_columns = interpolate(start[1:], side[1:], most_columns, end=end[1])[0]  # [S, W] of the widest
        pooled = jnp.float32(0.0)
        for index, feature in enumerate(features):
            height, width, _ = feature.shape
            rows, columns = all_rows[:, :height] * (level == index), all_columns[:, :width]
            by_row = jnp.einsum("sh,hwc->swc", rows, feature.astype(jnp.float32), precision="highest")
            # The transposition makes the second product one plain matrix product, four times as fast on a CPU.
            pooled = pooled + jnp.einsum("tw,wsc->tsc", columns, by_row.transpose(1, 0, 2), precision="highest")
        return pooled.transpose(1, 0, 2)  # [S, S, C]

    count, channels = rois.shape[0], features[0].shape[2]
    chunk = max(1, DENSE_VALUES // (output_size * most_columns * channels))
    inputs = jax.lax.stop_gradient((starts, sides, levels, extents[levels]))
    pooled = jax.vmap(pool)(inputs) if count <= chunk else jax.lax.map(pool, inputs, batch_size=chunk)
    return pooled.astype(features[0].dtype)


def interpolation_matrix(
    start: Float[Array, "n"],
    side: Float[Array, "n"],
    length: int,
    output_size: int,
    sampling_ratio: int,
    end: Int[Array, ""] | int | None = None,
) -> Float[Array, "n S L"]:
    """Returns the weight of each of `length` cells, of which `end` are not padding, in each of the bins along one axis.

    Bins divide [start, start + side), in cells; each averages its samples. `sampling_ratio` 0: ceil(side / S) of them.
    """
    if sampling_ratio > 0:
        most, count = sampling_ratio, jnp.full(start.shape, sampling_ratio, jnp.float32)
    else:
        most = max(-(-length // output_size) + 1, 1)
        count = jnp.clip(jnp.ceil(side / output_size), 0.0, most)
    sample = jnp.arange(most, dtype=jnp.float32)[None, None, :]
    safe_count = jnp.maximum(count, 1.0)[:, None, None]
    bins = jnp.arange(output_size, dtype=jnp.float32)[None, :, None]
    bin_side = (side / output_size)[:, None, None]
    position = start[:, None, None] + bins * bin_side + (sample + 0.5) * bin_side / safe_count  # [n, S, most]
    end = jnp.maximum(length if end is None else end, 1)
    inside = (position >= -1.0) & (position <= end) & (sample < count[:, None, None])
    position = jnp.clip(position, 0.0, end - 1.0)
    cells = jnp.arange(length, dtype=jnp.float32)[None, None, None, :]
    hat = jnp.maximum(1.0 - jnp.abs(position[..., None] - cells), 0.0)
    weights = jnp.where(inside[..., None], hat, 0.0).sum(axis=2)  # [n, S, L]
    return weights / safe_count
