"""Losses of one image, each a float32 mean over its valid entries (paper section 3; Fast R-CNN, equation 3).

Invalid entries may contain any value, including NaN: they are replaced before any arithmetic, so neither losses nor
gradients depend on them. Shapes: n entries, C classes with background, m mask side.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrcnn_jax.ops.boxes import compute_giou, decode_boxes


def masked_mean(values: Float[Array, "*n"], valid: Bool[Array, "*n"], count: Array | None = None) -> Float[Array, ""]:
    """Returns the sum of the valid values divided by `count` (by default, their number); 0 if there are none."""
    count = jnp.sum(valid) if count is None else count
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(count, 1).astype(jnp.float32)


def sigmoid_cross_entropy(logits: Float[Array, "*n"], targets: Array) -> Float[Array, "*n"]:
    """Returns the elementwise binary cross-entropy; `targets` are in [0, 1] and broadcast."""
    logits = logits.astype(jnp.float32)
    return jax.nn.softplus(logits) - logits * targets  # softplus has the right gradient at 0, too


def smooth_l1(difference: Float[Array, "*n"], beta: float) -> Float[Array, "*n"]:
    """Returns `0.5 d**2 / beta` where `|d| < beta`, else `|d| - 0.5 beta`; with beta 0, this is L1."""
    absolute = jnp.abs(difference)
    if beta == 0.0:
        return absolute
    return jnp.where(absolute < beta, 0.5 * difference * difference / beta, absolute - 0.5 * beta)


def objectness_loss(
    logits: Float[Array, "n"], is_foreground: Bool[Array, "n"], valid: Bool[Array, "n"]
) -> Float[Array, ""]:
    """Returns the mean binary cross-entropy of the sampled anchors."""
    logits = jnp.where(valid, logits.astype(jnp.float32), 0.0)
    return masked_mean(sigmoid_cross_entropy(logits, is_foreground.astype(jnp.float32)), valid)


def box_loss(
    deltas: Float[Array, "n 4"],
    targets: Float[Array, "n 4"],
    is_foreground: Bool[Array, "n"],
    valid: Bool[Array, "n"],
    *,
    beta: float,
) -> Float[Array, ""]:
    """Returns the smooth L1 loss summed over the foreground, divided by the number of all sampled boxes."""
    counted = is_foreground & valid
    difference = jnp.where(counted[:, None], deltas.astype(jnp.float32) - targets, 0.0)
    return masked_mean(smooth_l1(difference, beta).sum(axis=-1), counted, count=jnp.sum(valid))


def giou_loss(
    deltas: Float[Array, "n 4"],
    targets: Float[Array, "n 4"],
    rois: Float[Array, "n 4"],
    is_foreground: Bool[Array, "n"],
    valid: Bool[Array, "n"],
    *,
    weights: tuple[float, float, float, float],
) -> Float[Array, ""]:
    """Returns 1 - GIoU of the boxes decoded from deltas and from targets, normalised as in `box_loss`."""
    counted = is_foreground & valid
    deltas, targets, rois = (jnp.where(counted[:, None], a.astype(jnp.float32), 0.0) for a in (deltas, targets, rois))
    giou = compute_giou(decode_boxes(deltas, rois, weights), decode_boxes(targets, rois, weights))
    return masked_mean(1.0 - giou, counted, count=jnp.sum(valid))


def pick(values: Float[Array, "*n C"], index: Int[Array, "*#n"]) -> Float[Array, "*n"]:
    """Returns values[..., index] as a masked sum: the gradient of a gather is a scatter, with atomic additions."""
    return jnp.sum(jnp.where(jax.nn.one_hot(index, values.shape[-1], dtype=bool), values, 0.0), axis=-1)


def class_loss(logits: Float[Array, "n C"], labels: Int[Array, "n"], valid: Bool[Array, "n"]) -> Float[Array, ""]:
    """Returns the mean softmax cross-entropy of the sampled RoIs; label 0 is background."""
    log_scores = jax.nn.log_softmax(jnp.where(valid[:, None], logits.astype(jnp.float32), 0.0), axis=-1)
    return masked_mean(-pick(log_scores, jnp.where(valid, labels, 0)), valid)


def mask_loss(
    logits: Float[Array, "n m m"], targets: Float[Array, "n m m"], is_foreground: Bool[Array, "n"]
) -> Float[Array, ""]:
    """Returns the mean per-pixel binary cross-entropy of the foreground RoIs.

    `logits` are those of each RoI's own class, so the masks of other classes do not compete (paper section 3, "Mask
    Representation", and table 2b).
    """
    logits = jnp.where(is_foreground[:, None, None], logits.astype(jnp.float32), 0.0)
    targets = jnp.where(is_foreground[:, None, None], targets, 0.0)
    return masked_mean(sigmoid_cross_entropy(logits, targets).mean(axis=(1, 2)), is_foreground)


def softmax_mask_loss(
    logits: Float[Array, "n m m C"],
    targets: Float[Array, "n m m"],
    is_foreground: Bool[Array, "n"],
    labels: Int[Array, "n"],
) -> Float[Array, ""]:
    """Returns the mean per-pixel softmax cross-entropy of the foreground RoIs, in which classes compete (table 2b).

    The class of a pixel is the RoI's label inside the target mask and 0, the background, outside.
    """
    logits = jnp.where(is_foreground[:, None, None, None], logits.astype(jnp.float32), 0.0)
    classes = jnp.where(is_foreground[:, None, None] & (targets > 0), labels[:, None, None], 0)
    log_scores = jax.nn.log_softmax(logits, axis=-1)
    return masked_mean(-pick(log_scores, classes).mean(axis=(1, 2)), is_foreground)


def keypoint_loss(
    logits: Float[Array, "n K h h"], cells: Int[Array, "n K"], valid: Bool[Array, "n K"]
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of the valid keypoints, with a softmax over the h * h cells (section 5)."""
    flat = logits.astype(jnp.float32).reshape(*cells.shape, logits.shape[-2] * logits.shape[-1])
    log_scores = jax.nn.log_softmax(jnp.where(valid[..., None], flat, 0.0), axis=-1)
    return masked_mean(-pick(log_scores, jnp.where(valid, cells, 0)), valid)
