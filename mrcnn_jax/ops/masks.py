"""Mask targets: what a RoI's mask head should predict, read from box-relative ground-truth bitmaps (paper section 3).

Shapes: n RoIs, g ground-truth slots, M bitmap side, m target side.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mrcnn_jax.ops.boxes import box_sides, split_boxes
from mrcnn_jax.ops.roi_align import interpolation_matrix

HALF_COVERED = 0.5 - 1e-3
"""Just below one half: a RoI that is the object's own box meets bitmap cells in whole numbers, so exact halves are
common, and rounding must not decide them."""

SAMPLES_PER_CELL = 4
"""Samples per target cell and axis: with M = 4 m a target cell of a tight RoI covers four bitmap cells."""


@jax.named_scope("sample_mask_targets")
def sample_mask_targets(
    bitmaps: UInt8[Array, "g M M"],
    gt_boxes: Float[Array, "g 4"],
    rois: Float[Array, "n 4"],
    matched_gt: Int[Array, "n"],
    *,
    output_size: int,
) -> Float[Array, "n m m"]:
    """Returns 0 or 1: where the matched object covers at least half of each cell of the RoI's m x m grid.

    The bitmap spans the object's box, so the target is the intersection of RoI and object; outside the box it is 0.
    """
    size = bitmaps.shape[-1]

    def one(roi: Array, index: Array) -> Array:
        bitmap, box = bitmaps[index].astype(jnp.float32), gt_boxes[index]
        rows, columns = (_axis_weights(roi, box, axis, size, output_size) for axis in (1, 0))
        # GPUs and TPUs would round the weights: to 11 bits or to 8.
        covered = jnp.einsum("ah,hw,bw->ab", rows, bitmap, columns, precision="highest")
        return (covered >= HALF_COVERED).astype(jnp.float32)

    return jax.vmap(one)(rois, matched_gt)


def _axis_weights(roi: Array, box: Array, axis: int, size: int, output_size: int) -> Array:
    """Returns [m, M] weights of the bitmap's cells along x (axis 0) or y (axis 1)."""
    cells_per_pixel = size / jnp.maximum(box_sides(box)[axis], 1e-3)
    start = (split_boxes(roi)[axis] - split_boxes(box)[axis]) * cells_per_pixel - 0.5
    side = box_sides(roi)[axis] * cells_per_pixel
    return interpolation_matrix(start[None], side[None], size, output_size, SAMPLES_PER_CELL)[0]
