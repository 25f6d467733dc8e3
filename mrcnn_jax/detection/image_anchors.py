"""The anchors of one image on its canvas, and which of them lie inside the image's extent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.integers import ceil_div
from mrcnn_jax.ops.anchors import make_cell_anchors, make_level_anchors
from mrcnn_jax.ops.extent import count_cells, find_inside


class LevelAnchors(NamedTuple):
    """Anchors of one level."""

    boxes: Float[Array, "a 4"]
    valid: Bool[Array, "a"]


@jax.named_scope("make_anchors")
def make_anchors(canvas: tuple[int, ...], image_hw: Array, model_config: ModelConfig) -> list[LevelAnchors]:
    """Returns the anchors of each level for an image of size `image_hw` [2]; anchors inside its extent are valid."""
    levels = []
    padded_hw = count_cells(image_hw, 1, model_config.size_divisor)
    for stride, around in zip(model_config.feature_strides, cell_anchors(model_config), strict=True):
        feature_hw = ceil_div(canvas[0], stride), ceil_div(canvas[1], stride)
        cells_hw = count_cells(image_hw, stride, model_config.size_divisor)
        fitted = padded_hw // jnp.maximum(cells_hw, 1)
        stride_yx = fitted if model_config.anchor_stride == "fitted" else jnp.full(2, stride)
        boxes = make_level_anchors(feature_hw, stride_yx, around)
        inside = find_inside(image_hw, feature_hw, stride, model_config.size_divisor)
        valid = jnp.repeat(inside.reshape(-1), model_config.anchors_per_cell)
        levels.append(LevelAnchors(boxes, valid))
    return levels


def cell_anchors(model_config: ModelConfig) -> list[np.ndarray]:
    """Returns the anchors [anchors_per_cell, 4] around the origin for each level."""
    return [
        make_cell_anchors(sizes, model_config.anchor_ratios, rounded=model_config.anchors_rounded)
        for sizes in model_config.anchor_sizes_by_level
    ]
