"""Assignment of ground truth to anchors and RoIs by IoU. Shapes: n candidate boxes, g ground-truth slots."""

from enum import IntEnum
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrcnn_jax.ops.boxes import compute_iou


class Match(IntEnum):
    """What a candidate box is trained as."""

    IGNORE = 0
    BACKGROUND = 1
    FOREGROUND = 2


class Matches(NamedTuple):
    """Result of `match_boxes`."""

    states: Int[Array, "n"]  # values of Match
    matched_gt: Int[Array, "n"]  # ground-truth slot of highest IoU, lowest index on ties; 0 if there is none
    iou: Float[Array, "n"]  # with that slot


def match_boxes(
    boxes: Float[Array, "n 4"],
    boxes_valid: Bool[Array, "n"],
    gt_boxes: Float[Array, "g 4"],
    gt_valid: Bool[Array, "g"],
    *,
    foreground_iou: float,
    background_iou: float,
    allow_low_quality: bool,
) -> Matches:
    """Returns each box's state and its ground truth.

    Foreground: IoU >= foreground_iou. Background: IoU < background_iou. Ignored: between them, and invalid boxes.
    With `allow_low_quality` every box that ties for the best IoU of some object is foreground, too (Faster R-CNN,
    section 3.1.2, rule i); it keeps its own best object, as the reference implementations do.
    """
    safe_gt = jnp.where(gt_valid[:, None], gt_boxes, 0.0)
    iou = compute_iou(boxes, safe_gt)  # [n, g]
    iou = jnp.where(gt_valid[None, :] & boxes_valid[:, None], iou, -1.0)
    matched_gt = jnp.argmax(iou, axis=1).astype(jnp.int32)  # [n]
    best_iou = jnp.max(iou, axis=1)
    foreground = best_iou >= foreground_iou
    if allow_low_quality:
        best_of_gt = jnp.max(iou, axis=0)  # [g]
        foreground |= jnp.any((iou == best_of_gt[None, :]) & (best_of_gt[None, :] > 0.0), axis=1)
    states = jnp.where(
        foreground, Match.FOREGROUND, jnp.where(best_iou < background_iou, Match.BACKGROUND, Match.IGNORE)
    )
    states = jnp.where(boxes_valid, states, Match.IGNORE).astype(jnp.int32)
    return Matches(states, matched_gt, jnp.maximum(best_iou, 0.0))
