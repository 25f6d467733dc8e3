"""Mask targets of RoIs, sampled from box-relative ground-truth bitmaps (paper section 3).

Shapes: n RoIs, g ground-truth slots, M bitmap side, m target side.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mrcnn_jax.ops.boxes import box_sides, split_boxes
from mrcnn_jax.ops.roi_align import interpolation_matrix

HALF_COVERED = 0.5 - 1e-3
"""Just below one half: the cells of a RoI that equals the object's box cover whole bitmap cells, so exact halves are
common, and rounding must not decide them."""

SAMPLES_PER_CELL = 4
"""Samples per target cell and axis: with M = 4 m, a target cell of a tight RoI is four bitmap cells long."""


@jax.named_scope("sample_mask_targets")
def sample_mask_targets(
    bitmaps: UInt8[Array, "g M M"],
    gt_boxes: Float[Array, "g 4"],
    rois: Float[Array, "n 4"],
    matched_gt: Int[Array, "n"],
    *,
    output_size: int,
) -> Float[Array, "n m m"]:
    """Returns 1 for each cell of a RoI's m x m grid of which the matched object covers at least half, else 0.

    The bitmap spans the object's box, so the target is the intersection of RoI and object and is 0 outside the box.
    """
    size = bitmaps.shape[-1]

    def one(roi: Array, index: Array) -> Array:
        bitmap, box = bitmaps[index].astype(jnp.float32), gt_boxes[index]
        rows, columns = (_axis_weights(roi, box, axis, size, output_size) for axis in (1, 0))
        # By default, GPUs and TPUs would round the weights, to 11 or 8 bits.
        covered = jnp.einsum("ah,hw,bw->ab", rows, bitmap, columns, precision="highest")
        return (covered >= HALF_COVERED).astype(jnp.float32)

    return jax.vmap(one)(rois, matched_gt)


def _axis_weights(roi: Array, box: Array, axis: int, size: int, output_size: int) -> Array:
    """Returns the weights [m, M] of the bitmap's cells along x (axis 0) or y (axis 1)."""
    cells_per_pixel = size / jnp.maximum(box_sides(box)[axis], 1e-3)
    start = (split_boxes(roi)[axis] - split_boxes(box)[axis]) * cells_per_pixel - 0.5
    side = box_sides(roi)[axis] * cells_per_pixel
    return interpolation_matrix(start[None], side[None], size, output_size, SAMPLES_PER_CELL)[0]
