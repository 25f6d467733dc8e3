"""Assignment of ground truth to anchors and RoIs by IoU. Shapes: n candidate boxes, g ground-truth slots."""

from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrcnn_jax.integers import ceil_div
from mrcnn_jax.ops.boxes import compute_iou

GT_BLOCK = 32
"""Ground-truth slots compared at a time. This bounds the IoU matrix; blocks after the last object are skipped."""


class Match(IntEnum):
    """The role of a candidate box in training."""

    IGNORE = 0
    BACKGROUND = 1
    FOREGROUND = 2


class Matches(NamedTuple):
    """Result of `match_boxes`."""

    states: Int[Array, "n"]  # values of Match
    matched_gt: Int[Array, "n"]  # ground-truth slot of highest IoU, lowest index on ties; 0 if there is none


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
    """Returns the state of each box and the ground truth that it is matched to.

    A box is foreground if IoU >= foreground_iou and background if IoU < background_iou. Boxes in between and invalid
    boxes are ignored. With `allow_low_quality`, every box that ties for the best IoU of some object is foreground, too
    (Faster R-CNN, section 3.1.2, rule i); it stays matched to its own best object, as in the reference implementations.
    """
    best_iou, matched_gt, is_best_of_gt = _scan_ground_truth(boxes, boxes_valid, gt_boxes, gt_valid)
    foreground = best_iou >= foreground_iou
    if allow_low_quality:
        foreground |= is_best_of_gt
    states = jnp.where(
        foreground, Match.FOREGROUND, jnp.where(best_iou < background_iou, Match.BACKGROUND, Match.IGNORE)
    )
    states = jnp.where(boxes_valid, states, Match.IGNORE).astype(jnp.int32)
    return Matches(states, matched_gt)


def _scan_ground_truth(
    boxes: Float[Array, "n 4"], boxes_valid: Bool[Array, "n"], gt_boxes: Float[Array, "g 4"], gt_valid: Bool[Array, "g"]
) -> tuple[Array, Array, Array]:
    """Returns each box's best IoU (-1 if none), its slot, and whether the box ties for the best IoU of some slot."""
    num_boxes, num_slots = boxes.shape[0], gt_boxes.shape[0]
    size = min(GT_BLOCK, max(num_slots, 1))
    num_blocks = max(ceil_div(num_slots, size), 1)
    padding = num_blocks * size - num_slots
    valid = jnp.pad(gt_valid, (0, padding)).reshape(num_blocks, size)
    blocks = jnp.pad(jnp.where(gt_valid[:, None], gt_boxes, 0.0), ((0, padding), (0, 0)))
    blocks = blocks.reshape(num_blocks, size, 4)
    num_used = jnp.max(jnp.where(valid.any(axis=1), jnp.arange(num_blocks) + 1, 0), initial=0)

    def compare(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        block, best_iou, matched_gt, is_best_of_gt = carry
        iou = compute_iou(boxes, blocks[block])  # [n, size]
        iou = jnp.where(valid[block][None, :] & boxes_valid[:, None], iou, -1.0)
        block_best = jnp.max(iou, axis=1)
        is_better = block_best > best_iou  # strict: the lowest slot wins ties
        slot = block * size + jnp.argmax(iou, axis=1).astype(jnp.int32)
        best_of_gt = jnp.max(iou, axis=0)[None, :]
        ties = jnp.any((iou == best_of_gt) & (best_of_gt > 0.0), axis=1)
        return (
            block + 1,
            jnp.maximum(best_iou, block_best),
            jnp.where(is_better, slot, matched_gt),
            is_best_of_gt | ties,
        )

    start = (
        jnp.int32(0),
        jnp.full(num_boxes, -1.0, jnp.float32),
        jnp.zeros(num_boxes, jnp.int32),
        jnp.zeros(num_boxes, bool),
    )
    if num_blocks == 1:  # no loop is needed
        _, best_iou, matched_gt, is_best_of_gt = compare(start)
    else:
        _, best_iou, matched_gt, is_best_of_gt = jax.lax.while_loop(lambda carry: carry[0] < num_used, compare, start)
    return best_iou, matched_gt, is_best_of_gt
