"""Keypoint targets: the cell of a RoI's heat map that each visible keypoint falls into (paper section 5).

Shapes: n RoIs, K keypoints, h heat-map side.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrcnn_jax.ops.boxes import box_sides, split_boxes


@jax.named_scope("encode_keypoints")
def encode_keypoints(
    keypoints: Float[Array, "n K 3"], rois: Float[Array, "n 4"], *, size: int
) -> tuple[Int[Array, "n K"], Bool[Array, "n K"]]:
    """Returns the cell of each keypoint, row * h + column, and whether the keypoint is annotated and inside its RoI.

    `keypoints` are x, y in pixels of the network input and COCO's visibility, 0 if not annotated. Cells are half-open,
    but a keypoint on the right or lower border of its RoI belongs to the last cell, as in Detectron2 and torchvision.
    """
    x, y, visibility = (keypoints[..., index] for index in range(3))
    x0, y0, x1, y1 = (side[:, None] for side in split_boxes(rois))
    width, height = (jnp.maximum(side, 1e-3)[:, None] for side in box_sides(rois))
    column = jnp.where(x == x1, size - 1, jnp.floor((x - x0) * (size / width)))
    row = jnp.where(y == y1, size - 1, jnp.floor((y - y0) * (size / height)))
    inside = (column >= 0) & (row >= 0) & (column < size) & (row < size)
    valid = inside & (visibility > 0)
    cells = jnp.where(valid, row * size + column, 0).astype(jnp.int32)
    return cells, valid
