"""The losses of a box head on one image's RoIs, for a single head and for a cascade."""

from jaxtyping import Array, Float

from mrcnn_jax.config import TargetsConfig
from mrcnn_jax.ops.losses import box_loss, class_loss, giou_loss
from mrcnn_jax.structures import RoiTargets


def roi_losses(
    logits: Float[Array, "n C"],
    deltas: Float[Array, "n 4"],
    rois: RoiTargets,
    *,
    weights: tuple[float, float, float, float],
    targets_config: TargetsConfig,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns L_cls and L_box (paper section 3) of n RoIs from class logits and the deltas of their own labels.

    `weights` scale the deltas; `targets_config.box_loss` selects smooth L1 or GIoU.
    """
    is_foreground = rois.labels > 0
    if targets_config.box_loss == "giou":
        regression = giou_loss(deltas, rois.deltas, rois.rois, is_foreground, rois.valid, weights=weights)
    else:
        regression = box_loss(deltas, rois.deltas, is_foreground, rois.valid, beta=targets_config.box_loss_beta)
    return class_loss(logits, rois.labels, rois.valid), regression
