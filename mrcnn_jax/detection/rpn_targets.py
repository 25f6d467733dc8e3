"""The anchors of one image on which the RPN is trained, and their targets (Faster R-CNN, section 3.1.2)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from mrcnn_jax.config import TargetsConfig
from mrcnn_jax.detection.image_anchors import LevelAnchors
from mrcnn_jax.detection.proposals import RPN_DELTA_WEIGHTS
from mrcnn_jax.ops.boxes import encode_boxes
from mrcnn_jax.ops.matching import match_boxes
from mrcnn_jax.ops.sampling import sample_balanced
from mrcnn_jax.structures import GroundTruth, RpnTargets


@jax.named_scope("sample_anchors")
def sample_anchors(
    anchors: list[LevelAnchors], ground_truth: GroundTruth, *, targets_config: TargetsConfig, key: Key[Array, ""]
) -> RpnTargets:
    """Returns `targets_config.rpn_samples` sampled anchors, indexed across all levels, with their targets."""
    boxes = jnp.concatenate([level.boxes for level in anchors])  # [A, 4]
    valid = jnp.concatenate([level.valid for level in anchors])  # [A]
    matches = match_boxes(
        boxes,
        valid,
        ground_truth.boxes,
        ground_truth.valid,
        foreground_iou=targets_config.rpn_foreground_iou,
        background_iou=targets_config.rpn_background_iou,
        allow_low_quality=True,
    )
    max_foreground = int(targets_config.rpn_samples * targets_config.rpn_foreground_fraction)
    sample = sample_balanced(
        matches.states, num_samples=targets_config.rpn_samples, max_foreground=max_foreground, key=key
    )
    matched_boxes = ground_truth.boxes[matches.matched_gt[sample.indices]]  # [S, 4]
    deltas = encode_boxes(
        jnp.where(sample.is_foreground[:, None], matched_boxes, 0.0), boxes[sample.indices], RPN_DELTA_WEIGHTS
    )
    deltas = jnp.where(sample.is_foreground[:, None], deltas, 0.0)
    return RpnTargets(
        anchor_index=sample.indices, is_foreground=sample.is_foreground, deltas=deltas, valid=sample.valid
    )
