"""The anchors of one picture: constants of the canvas, and which of them lie in the picture's own extent."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mrcnn_jax.config import ModelConfig, extent_in_cells
from mrcnn_jax.ops.anchors import make_level_anchors


class LevelAnchors(NamedTuple):
    """Anchors of one pyramid level."""

    boxes: Float[Array, "a 4"]
    valid: Bool[Array, "a"]


def make_anchors(canvas: tuple[int, ...], image_hw: Array, config: ModelConfig) -> list[LevelAnchors]:
    """Returns the anchors of P2..P6 for one picture of size `image_hw` [2]; those in its own extent are valid."""
    levels = []
    for stride, size in zip(config.pyramid_strides, config.anchor_sizes, strict=True):
        feature_h, feature_w = -(-canvas[0] // stride), -(-canvas[1] // stride)
        boxes = make_level_anchors((feature_h, feature_w), stride, size, config.anchor_ratios)
        rows, columns = extent_in_cells(image_hw, stride)
        inside = (jnp.arange(feature_h) < rows)[:, None] & (jnp.arange(feature_w) < columns)[None, :]
        valid = jnp.repeat(inside.reshape(-1), len(config.anchor_ratios))
        levels.append(LevelAnchors(jnp.asarray(boxes), valid))
    return levels
