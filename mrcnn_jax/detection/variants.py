"""Functions that the config chooses: how masks are trained and read, and what boxes are charged.

Shapes: n RoIs, m mask side, C classes with background.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mrcnn_jax.config import TargetsConfig
from mrcnn_jax.ops.losses import box_loss, class_loss, giou_loss, mask_loss, softmax_mask_loss
from mrcnn_jax.structures import RoiTargets


class MaskVariant(NamedTuple):
    """Two functions of the mask head's logits, and which RoIs they are of."""

    loss: Callable[[Array, Array, Array, Array], Array]
    """(logits, targets [n, m, m], is_foreground [n], labels [n]) to the scalar loss."""
    probabilities: Callable[[Array, Array], Array]
    """(logits, labels [n]) to the probabilities [n, m, m] of each RoI's own class."""


def _sigmoid_loss(logits: Array, targets: Array, is_foreground: Array, labels: Array) -> Array:
    del labels  # the head put out each RoI's own map
    return mask_loss(logits, targets, is_foreground)


def _sigmoid_probabilities(logits: Float[Array, "n m m"], labels: Int[Array, "n"]) -> Float[Array, "n m m"]:
    del labels
    return jax.nn.sigmoid(logits)


def _softmax_probabilities(logits: Float[Array, "n m m C"], labels: Int[Array, "n"]) -> Float[Array, "n m m"]:
    scores = jax.nn.softmax(logits, axis=-1)
    return jnp.take_along_axis(scores, labels[:, None, None, None], axis=-1)[..., 0]


MASK_VARIANTS = {
    "sigmoid": MaskVariant(_sigmoid_loss, _sigmoid_probabilities),
    "softmax": MaskVariant(softmax_mask_loss, _softmax_probabilities),
}
"""By `ModelConfig.mask_activation`: the paper's sigmoid for each class, or one softmax over the classes (table 2b)."""

DeltaWeights = tuple[float, float, float, float]
BoxLoss = Callable[[Array, RoiTargets, DeltaWeights, TargetsConfig], Array]
"""(deltas [n, 4] of each RoI's own label, RoIs, weights of the deltas, config) to the scalar loss of one image."""


def _smooth_l1_loss(deltas: Array, rois: RoiTargets, weights: DeltaWeights, targets: TargetsConfig) -> Array:
    del weights  # the targets' deltas have them already
    return box_loss(deltas, rois.deltas, rois.labels > 0, rois.valid, beta=targets.box_loss_beta)


def _giou_loss(deltas: Array, rois: RoiTargets, weights: DeltaWeights, targets: TargetsConfig) -> Array:
    del targets
    return giou_loss(deltas, rois.deltas, rois.rois, rois.labels > 0, rois.valid, weights=weights)


BOX_LOSSES: dict[str, BoxLoss] = {"smooth_l1": _smooth_l1_loss, "giou": _giou_loss}
"""By `TargetsConfig.box_loss`."""


def roi_losses(
    logits: Array, deltas: Array, rois: RoiTargets, *, weights: DeltaWeights, targets: TargetsConfig
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns L_cls and L_box of one image's RoIs from class logits [n, C] and deltas [n, 4] of their own labels."""
    return class_loss(logits, rois.labels, rois.valid), BOX_LOSSES[targets.box_loss](deltas, rois, weights, targets)
