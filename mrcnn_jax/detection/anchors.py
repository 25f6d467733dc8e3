"""The anchors of one picture: constants of the canvas, and which of them lie in the picture's own extent."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mrcnn_jax.config import Canvas, ModelConfig
from mrcnn_jax.models.fpn import PYRAMID_STRIDES
from mrcnn_jax.models.mask_rcnn import level_extents, pyramid_sizes
from mrcnn_jax.ops.anchors import make_level_anchors


class LevelAnchors(NamedTuple):
    """Anchors of one pyramid level."""

    boxes: Float[Array, "a 4"]
    valid: Bool[Array, "a"]


def make_anchors(canvas: Canvas, image_hw: Array, config: ModelConfig) -> list[LevelAnchors]:
    """Returns the anchors of P2..P6 for one picture of size `image_hw` [2]."""
    sizes = pyramid_sizes(canvas)
    extents = level_extents(canvas, image_hw, len(config.anchor_ratios))
    return [
        LevelAnchors(jnp.asarray(make_level_anchors(feature_hw, stride, size, config.anchor_ratios)), extent)
        for feature_hw, stride, size, extent in zip(sizes, PYRAMID_STRIDES, config.anchor_sizes, extents, strict=True)
    ]
