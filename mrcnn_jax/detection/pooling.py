"""RoI features of a batch: each RoI is pooled from the level that fits its size (FPN, equation 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.config.model import extent_in_cells
from mrcnn_jax.ops.roi_align import align_rois, assign_levels


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

    def pool_image(maps: tuple[Array, ...], rois: Array, image_hw: Array) -> Array:
        eps = {"eps_in_log": config.level_eps_in_log, "eps_after_log": config.level_eps_after_log}
        return align_rois(
            maps,
            rois,
            assign_levels(rois, len(strides), **eps),
            jnp.stack([extent_in_cells(image_hw, stride, config.size_divisor) for stride in strides]),
            strides=strides,
            output_size=output_size,
            sampling_ratio=config.sampling_ratio,
            aligned=config.roi_align_aligned,
        )

    pooled = jax.vmap(pool_image)(maps[: len(strides)], rois, image_hw)  # [B, N, S, S, D]
    return pooled.reshape(-1, *pooled.shape[2:])
