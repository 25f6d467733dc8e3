"""RoI features of a batch: each RoI is pooled from the level that fits its size (FPN, equation 1)."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.config.model import extent_in_cells
from mrcnn_jax.ops.roi_align import align_rois, assign_levels
from mrcnn_jax.ops.roi_pool import largest_samples, pool_whole_cells, quantise_rois


@jax.named_scope("pool_rois")
def pool_rois(
    maps: tuple[Array, ...],
    rois: Float[Array, "b n 4"],
    image_hw: Int[Array, "b 2"],
    *,
    output_size: int,
    config: ModelConfig,
) -> Float[Array, "bn S S D"]:
    """Returns features [B * N, S, S, D] of the RoIs, image by image; pictures of `image_hw` pixels on their canvas."""
    strides = config.roi_strides
    pool = {"align": _align, "warp": _warp, "pool": _pool}[config.roi_op]

    def pool_image(maps: tuple[Array, ...], rois: Array, image_hw: Array) -> Array:
        eps = {"eps_in_log": config.level_eps_in_log, "eps_after_log": config.level_eps_after_log}
        levels = assign_levels(rois, len(strides), **eps)
        extents = jnp.stack([extent_in_cells(image_hw, stride, config.size_divisor) for stride in strides])
        return pool(maps, rois, levels, extents, output_size, config)

    pooled = jax.vmap(pool_image)(maps[: len(strides)], rois, image_hw)  # [B, N, S, S, D]
    return pooled.reshape(-1, *pooled.shape[2:])


def _align(
    maps: tuple[Array, ...], rois: Array, levels: Array, extents: Array, output_size: int, config: ModelConfig
) -> Array:
    """RoIAlign. Its maxima are those of the samples, each of which is the average of a bin of its own."""
    choices: dict[str, Any] = {"strides": config.roi_strides, "aligned": config.roi_align_aligned}
    ratio = config.sampling_ratio
    if config.roi_reduce == "average":
        return align_rois(maps, rois, levels, extents, output_size=output_size, sampling_ratio=ratio, **choices)
    samples = align_rois(maps, rois, levels, extents, output_size=output_size * ratio, sampling_ratio=1, **choices)
    return largest_samples(samples, ratio)


def _warp(
    maps: tuple[Array, ...], rois: Array, levels: Array, extents: Array, output_size: int, config: ModelConfig
) -> Array:
    """RoIWarp: RoIAlign of the RoI rounded to whole cells, between whose borders it lies: `aligned`."""
    rounded = quantise_rois(rois, levels, config.roi_strides)
    return _align(maps, rounded, levels, extents, output_size, replace(config, roi_align_aligned=True))


def _pool(
    maps: tuple[Array, ...], rois: Array, levels: Array, extents: Array, output_size: int, config: ModelConfig
) -> Array:
    """RoIPool: the RoI and its bins rounded to whole cells."""
    choices: dict[str, Any] = {"strides": config.roi_strides, "reduce": config.roi_reduce}
    return pool_whole_cells(maps, rois, levels, extents, output_size=output_size, **choices)
