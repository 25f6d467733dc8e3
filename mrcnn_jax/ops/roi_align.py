"""RoIAlign over a feature pyramid (paper section 3) and the pyramid level of each RoI (FPN, equation 1).

Every bin is the exact average of bilinear samples, as in torchvision and Detectron2: samples more than one cell outside
the map count as 0, and others are clamped to it. The map ends at the image's extent; cells beyond it are padding.
No gradient flows into the RoIs. Sizes in cells are pixels divided by the level's stride.

Shapes: n RoIs, S output side, C channels, l levels, H x W map of one level.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mrcnn_jax.integers import ceil_div
from mrcnn_jax.ops.boxes import box_areas, split_boxes
from mrcnn_jax.ops.roi_align_gather import align_by_gather
from mrcnn_jax.ops.roi_align_loops import CellRois, align_in_loops

CANONICAL_SIZE, CANONICAL_LEVEL = 224.0, 2
"""A RoI with this side, in pixels, belongs to P4, the level with this index."""

DENSE_VALUES = 2**23
"""Intermediate values that the dense form holds at a time."""

GATHER_COST = 20
"""Cost of gathering one value, in multiply-adds of the dense form (measured on a CPU, 96 to 256 channels)."""


def assign_levels(
    rois: Float[Array, "n 4"], num_levels: int, *, eps_in_log: float = 1e-8, eps_after_log: float = 0.0
) -> Int[Array, "n"]:
    """Returns the pyramid level of each RoI, 0 for P2, the finest: floor(2 + log2(sqrt(area) / 224)).

    The two eps, inside and outside the logarithm, decide the level of RoIs with a side of 112, 224 or 448 pixels.
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

    `extents` holds the number of rows and columns of each level that belong to the image; by default, all of them.

    `sampling_ratio` is the number of samples per bin and axis; 0 is adaptive, ceil(RoI side in cells / S) for each RoI
    and axis. `aligned` shifts RoIs by half a cell, so that pixel centres lie at +0.5; without it, sides below one cell
    count as one cell.
    """
    choices: dict[str, Any] = {"strides": strides, "sampling_ratio": sampling_ratio, "aligned": aligned}
    return align_sets(features, [rois], [levels], extents, output_sizes=[output_size], **choices)[0]


def align_sets(
    features: Sequence[Float[Array, "_ _ C"]],
    rois: Sequence[Float[Array, "_ 4"]],
    levels: Sequence[Int[Array, "_"]],
    extents: Int[Array, "l 2"] | None = None,
    *,
    strides: Sequence[int],
    output_sizes: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
) -> list[Float[Array, "_ _ _ C"]]:
    """Returns the result of `align_rois` for several sets of RoIs, each with its own output size.

    On GPUs and TPUs, the gradients of all sets are added into one array, which is as large as the pyramid.
    """
    shapes = np.asarray([feature.shape[:2] for feature in features])
    extents = jnp.asarray(shapes, jnp.int32) if extents is None else extents
    choices: dict[str, Any] = {"strides": strides, "sampling_ratio": sampling_ratio, "aligned": aligned}
    are_dense = [_is_dense_cheaper(shapes, size, sampling_ratio) for size in output_sizes]
    if any(are_dense) and not all(are_dense):
        each_set = zip(rois, levels, output_sizes, strict=True)
        return [align_rois(features, own, at, extents, output_size=size, **choices) for own, at, size in each_set]

    def dense(features: Any, extents: Array, rois: list[Array], levels: list[Array]) -> list[Array]:
        each_set = zip(rois, levels, output_sizes, strict=True)
        return [align_rois_dense(features, own, at, extents, output_size=size, **choices) for own, at, size in each_set]

    def in_cells(extents: Array, rois: list[Array], levels: list[Array]) -> list[CellRois]:
        return [_in_cells(*each, extents, strides, aligned) for each in zip(rois, levels, strict=True)]

    def loops(features: Any, *sets: Any) -> list[Array]:
        ratio, dtype = sampling_ratio, features[0].dtype
        each_set = zip(in_cells(*sets), output_sizes, strict=True)
        return [
            align_in_loops(features, each, output_size=size, sampling_ratio=ratio).astype(dtype)
            for each, size in each_set
        ]

    def gather(features: Any, *sets: Any) -> list[Array]:
        return align_by_gather(features, in_cells(*sets), output_sizes=output_sizes, sampling_ratio=sampling_ratio)

    inputs = (tuple(features), extents, jax.lax.stop_gradient(list(rois)), list(levels))
    if all(are_dense):
        return dense(*inputs)
    return jax.lax.platform_dependent(*inputs, cpu=loops, default=gather if sampling_ratio else dense)


def _in_cells(rois: Array, levels: Array, extents: Array, strides: Sequence[int], aligned: bool) -> CellRois:
    starts, sides = _roi_in_cells(rois, jnp.asarray(1.0 / np.asarray(strides, np.float32))[levels], aligned)
    return CellRois(jnp.zeros_like(levels), levels, starts, sides, extents[levels])


def _is_dense_cheaper(shapes: np.ndarray, output_size: int, sampling_ratio: int) -> bool:
    """Returns whether two products with the whole pyramid cost less than the gathers of one RoI, as in small images.

    In this case CPUs use the products, too: they are as fast as the loops and compile in half the time.
    """
    dense = output_size * shapes.prod(axis=1).sum()
    gathered = 4 * (output_size * (sampling_ratio or 2)) ** 2
    return bool(dense < GATHER_COST * gathered)


def _roi_in_cells(rois: Array, scale: Array, aligned: bool) -> tuple[Array, Array]:
    """Returns the start and side along (y, x) in cells, each [n, 2]; `scale` [n] or a scalar is 1 / stride."""
    x0, y0, x1, y1 = split_boxes(rois)
    scale = jnp.broadcast_to(scale, x0.shape)[:, None]
    starts = jnp.stack([y0, x0], axis=-1) * scale - (0.5 if aligned else 0.0)
    sides = jnp.stack([y1 - y0, x1 - x0], axis=-1) * scale
    return starts, sides if aligned else jnp.maximum(sides, 1.0)


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
    """Returns the same as `align_rois`, computed by two matrix products per level with the whole map.

    Bilinear weights are separable in y and x, so any number of samples folds into one [S, H] and one [S, W] matrix.
    Adaptive sampling is therefore exact with static shapes, for RoIs that are not longer than the map.
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
    """Returns the weight of each of `length` cells in each bin along one axis; cells from `end` on are padding.

    The bins divide [start, start + side), in cells, and each averages its samples: `sampling_ratio` of them, or
    ceil(side / S) if it is 0.
    """
    if sampling_ratio > 0:
        most, count = sampling_ratio, jnp.full(start.shape, sampling_ratio, jnp.float32)
    else:
        most = max(ceil_div(length, output_size) + 1, 1)
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
