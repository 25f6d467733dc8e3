"""Cascade R-CNN: a sequence of box heads, each of which refines the boxes of the previous one (arXiv 1712.00726).

In training, each head requires a higher IoU for foreground than the previous one. RoIs are sampled once, for the first
head, from proposals and objects; the mask and keypoint heads are trained on these. As in Detectron2, a head predicts
one box for all classes, the losses of all heads count in full, and the gradient of the features is averaged over heads.

Shapes: B images, N RoIs or proposals, C classes with background.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from mrcnn_jax.config import TargetsConfig, TestConfig
from mrcnn_jax.detection.box_losses import roi_losses
from mrcnn_jax.detection.finiteness import box_head_part, mark, rows_finite
from mrcnn_jax.detection.pooling import pool_rois
from mrcnn_jax.detection.roi_targets import rematch_rois
from mrcnn_jax.detection.selection import select_boxes
from mrcnn_jax.ops.boxes import clip_boxes, decode_boxes, is_nonempty
from mrcnn_jax.structures import Detections, GroundTruth, Proposals, RoiTargets


@jax.named_scope("cascade_losses")
def cascade_losses(
    variables: dict[str, Any],
    features: tuple[Array, ...],
    roi_targets: RoiTargets,
    ground_truth: GroundTruth,
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
    targets_config: TargetsConfig,
) -> dict[str, Float[Array, "b"]]:
    """Returns L_cls and L_box of each head and image: the first on the sampled RoIs, the next on refined boxes."""
    model_config, boxes = model.config, roi_targets.rois
    losses: dict[str, Array] = {}
    for stage in range(model_config.box_head_stages):
        weights = model_config.stage_delta_weights(stage)
        if stage > 0:
            iou = targets_config.cascade_ious[stage - 1]
            rematch = partial(rematch_rois, foreground_iou=iou, delta_weights=weights)
            # No gradient flows through the boxes: RoI targets stop it.
            roi_targets = jax.vmap(rematch)(boxes, roi_targets.valid & is_nonempty(boxes), ground_truth)
        logits, deltas, boxes = run_stage(variables, features, roi_targets.rois, image_hw, stage=stage, model=model)
        one = partial(roi_losses, weights=weights, targets_config=targets_config)
        losses[f"class_{stage + 1}"], losses[f"box_{stage + 1}"] = jax.vmap(one)(logits, deltas, roi_targets)
    return losses


def classify_in_cascade(
    variables: dict[str, Any],
    features: tuple[Array, ...],
    proposals: Proposals,
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
    test_config: TestConfig,
) -> Detections:
    """Returns detections without masks and keypoints, with the last head's boxes and the mean scores of all heads."""
    num_stages, boxes = model.config.box_head_stages, proposals.boxes
    scores, not_finite = [], proposals.not_finite
    for stage in range(num_stages):
        logits, deltas, boxes = run_stage(variables, features, boxes, image_hw, stage=stage, model=model)
        outputs = [values.reshape(-1, values.shape[-1]) for values in (logits, deltas)]
        part = box_head_part(stage, num_stages)
        not_finite = mark(not_finite, part, rows_finite(outputs, proposals.valid))
        scores.append(jax.nn.softmax(logits, axis=-1))

    def one(scores: Array, boxes: Array, valid: Array, image_hw: Array) -> Detections:
        return select_boxes(scores, valid, lambda proposal, _: boxes[proposal], image_hw, test_config=test_config)

    found = jax.vmap(one)(sum(scores) / num_stages, boxes, proposals.valid, image_hw)
    return replace(found, not_finite=not_finite)


def run_stage(
    variables: dict[str, Any],
    features: tuple[Array, ...],
    rois: Float[Array, "b n 4"],
    image_hw: Int[Array, "b 2"],
    *,
    stage: int,
    model: nn.Module,
) -> tuple[Float[Array, "b n C"], Float[Array, "b n 4"], Float[Array, "b n 4"]]:
    """Returns a head's class logits and deltas, and the RoIs that it refined, clipped to the image."""
    model_config = model.config
    (roi_features,) = pool_rois(
        features, [rois], image_hw, output_sizes=[model_config.box_pool_size], model_config=model_config
    )
    roi_features = scale_gradient(roi_features, 1.0 / model_config.box_head_stages)
    logits, deltas = model.apply(variables, roi_features, stage, method=model.classify_rois)  # [B*N, C], [B*N, 1, 4]
    logits, deltas = logits.reshape(*rois.shape[:2], -1), deltas.reshape(rois.shape)

    def refine(deltas: Array, rois: Array, image_hw: Array) -> Array:
        return clip_boxes(decode_boxes(deltas, rois, model_config.stage_delta_weights(stage)), image_hw)

    return logits, deltas, jax.vmap(refine)(deltas, rois, image_hw)


def scale_gradient(values: Float[Array, "*n"], scale: float) -> Float[Array, "*n"]:
    """Returns the values unchanged; their gradient is multiplied by `scale`."""
    identity = jax.custom_gradient(lambda values: (values, lambda gradient: gradient * scale))
    return identity(values)
