"""RoI features of a batch; each RoI is pooled from the level that fits its size (FPN, equation 1)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.ops.extent import count_cells
from mrcnn_jax.ops.roi_align import align_sets, assign_levels
from mrcnn_jax.ops.roi_pool import largest_samples, pool_whole_cells, quantise_rois


@jax.named_scope("pool_rois")
def pool_rois(
    features: tuple[Array, ...],
    sets: Sequence[Float[Array, "b _ 4"]],
    image_hw: Int[Array, "b 2"],
    *,
    output_sizes: Sequence[int],
    model_config: ModelConfig,
) -> list[Float[Array, "_ _ _ D"]]:
    """Returns the features [B * N, S, S, D] of each set of RoIs [B, N, 4], ordered by image, at its output size.

    `image_hw` holds the sizes in pixels of the images on their canvas. On GPUs and TPUs, RoIAlign accumulates the
    gradients of all sets in one array.
    """
    strides = model_config.roi_strides
    pool = {"align": _align, "warp": _warp, "pool": _pool}[model_config.roi_op]

    def pool_image(features: tuple[Array, ...], sets: list[Array], image_hw: Array) -> list[Array]:
        eps = {"eps_in_log": model_config.level_eps_in_log, "eps_after_log": model_config.level_eps_after_log}
        levels = [assign_levels(rois, len(strides), **eps) for rois in sets]
        extents = jnp.stack([count_cells(image_hw, stride, model_config.size_divisor) for stride in strides])
        return pool(features, sets, levels, extents, output_sizes, model_config)

    pooled = jax.vmap(pool_image)(features[: len(strides)], list(sets), image_hw)  # each [B, N, S, S, D]
    return [features.reshape(-1, *features.shape[2:]) for features in pooled]


def _align(
    features: tuple[Array, ...],
    sets: list[Array],
    levels: list[Array],
    extents: Array,
    output_sizes: Sequence[int],
    model_config: ModelConfig,
) -> list[Array]:
    """Returns RoIAlign's features. For maxima, every sample is pooled as the average of a bin of its own."""
    choices: dict[str, Any] = {"strides": model_config.roi_strides, "aligned": model_config.roi_align_aligned}
    ratio = model_config.sampling_ratio
    if model_config.roi_reduce == "average":
        return align_sets(features, sets, levels, extents, output_sizes=output_sizes, sampling_ratio=ratio, **choices)
    finer = [size * ratio for size in output_sizes]
    samples = align_sets(features, sets, levels, extents, output_sizes=finer, sampling_ratio=1, **choices)
    return [largest_samples(each, ratio) for each in samples]


def _warp(
    features: tuple[Array, ...],
    sets: list[Array],
    levels: list[Array],
    extents: Array,
    output_sizes: Sequence[int],
    model_config: ModelConfig,
) -> list[Array]:
    """Returns RoIWarp's features: RoIAlign of RoIs rounded to the borders of whole cells, hence `aligned`."""
    rounded = [quantise_rois(rois, own, model_config.roi_strides) for rois, own in zip(sets, levels, strict=True)]
    return _align(features, rounded, levels, extents, output_sizes, replace(model_config, roi_align_aligned=True))


def _pool(
    features: tuple[Array, ...],
    sets: list[Array],
    levels: list[Array],
    extents: Array,
    output_sizes: Sequence[int],
    model_config: ModelConfig,
) -> list[Array]:
    """Returns RoIPool's features: RoIs and their bins are rounded to whole cells."""
    choices: dict[str, Any] = {"strides": model_config.roi_strides, "reduce": model_config.roi_reduce}
    return [
        pool_whole_cells(features, rois, own, extents, output_size=size, **choices)
        for rois, own, size in zip(sets, levels, output_sizes, strict=True)
    ]
