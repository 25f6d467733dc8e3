"""The RoIs of one image on which the heads are trained, and their targets (paper section 3.1, "Training")."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from mrcnn_jax.config import TargetsConfig
from mrcnn_jax.ops.boxes import encode_boxes
from mrcnn_jax.ops.matching import Match, match_boxes
from mrcnn_jax.ops.sampling import sample_balanced
from mrcnn_jax.structures import GroundTruth, Proposals, RoiTargets


@jax.named_scope("sample_rois")
def sample_rois(
    proposals: Proposals,
    ground_truth: GroundTruth,
    *,
    targets_config: TargetsConfig,
    delta_weights: tuple[float, float, float, float],
    key: Key[Array, ""],
) -> RoiTargets:
    """Returns `targets_config.roi_samples` RoIs sampled from proposals and ground-truth boxes, foreground first.

    Foreground to background is 1:3 by default. All foreground lies in the first `targets_config.num_foreground_rois`
    slots, and the mask and keypoint heads are trained only on these.
    """
    candidates = jnp.concatenate([proposals.boxes, ground_truth.boxes])
    valid = jnp.concatenate([proposals.valid, ground_truth.valid])
    candidates = jnp.where(valid[:, None], candidates, 0.0)
    matches = match_boxes(
        candidates,
        valid,
        ground_truth.boxes,
        ground_truth.valid,
        foreground_iou=targets_config.roi_foreground_iou,
        background_iou=targets_config.roi_foreground_iou,
        allow_low_quality=False,
    )
    sample = sample_balanced(
        matches.states,
        num_samples=targets_config.roi_samples,
        max_foreground=targets_config.num_foreground_rois,
        key=key,
    )
    rois = jnp.where(sample.valid[:, None], candidates[sample.indices], 0.0)
    matched_gt = matches.matched_gt[sample.indices]
    return _make_targets(rois, sample.is_foreground, matched_gt, sample.valid, ground_truth, delta_weights)


@jax.named_scope("rematch_rois")
def rematch_rois(
    boxes: Float[Array, "n 4"],
    valid: Bool[Array, "n"],
    ground_truth: GroundTruth,
    *,
    foreground_iou: float,
    delta_weights: tuple[float, float, float, float],
) -> RoiTargets:
    """Returns all boxes as RoIs in the same order, without sampling and without adding ground-truth boxes.

    Foreground may be in any slot. The later box heads of a cascade are trained on these RoIs, the mask head is not.
    """
    rois = jnp.where(valid[:, None], boxes, 0.0)
    matches = match_boxes(
        rois,
        valid,
        ground_truth.boxes,
        ground_truth.valid,
        foreground_iou=foreground_iou,
        background_iou=foreground_iou,
        allow_low_quality=False,
    )
    foreground = matches.states == Match.FOREGROUND
    return _make_targets(rois, foreground, matches.matched_gt, valid, ground_truth, delta_weights)


def _make_targets(
    rois: Array,
    foreground: Array,
    matched_gt: Array,
    valid: Array,
    ground_truth: GroundTruth,
    delta_weights: tuple[float, float, float, float],
) -> RoiTargets:
    matched_gt = jnp.where(foreground, matched_gt, 0)
    matched_boxes = jnp.where(foreground[:, None], ground_truth.boxes[matched_gt], 0.0)
    deltas = encode_boxes(matched_boxes, rois, delta_weights)
    roi_targets = RoiTargets(
        rois=rois,
        labels=jnp.where(foreground, ground_truth.labels[matched_gt], 0),
        deltas=jnp.where(foreground[:, None], deltas, 0.0),
        matched_gt=matched_gt,
        valid=valid,
    )
    return jax.lax.stop_gradient(roi_targets)


def count_foreground(roi_targets: RoiTargets, ground_truth: GroundTruth) -> dict[str, Float[Array, "b"]]:
    """Returns the foreground RoIs of each image of a batch, and those of them that are not an object's own box."""
    is_foreground = roi_targets.labels > 0
    own_boxes = jnp.take_along_axis(ground_truth.boxes, roi_targets.matched_gt[..., None], axis=1)
    is_proposal = is_foreground & jnp.any(roi_targets.rois != own_boxes, axis=2)
    counts = {"foreground_rois": is_foreground, "foreground_proposals": is_proposal}
    return {name: jnp.sum(each, axis=1).astype(jnp.float32) for name, each in counts.items()}
