"""How images become detections: proposals, the box head on them, NMS per class, masks and keypoints for what is left
(paper section 3.1, "Inference"). Shapes: B images, P proposals, K candidates, D detections, C classes.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, UInt8

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.detection.anchors import make_anchors
from mrcnn_jax.detection.pooling import pool_rois
from mrcnn_jax.detection.proposals import propose
from mrcnn_jax.detection.variants import MASK_VARIANTS
from mrcnn_jax.ops.boxes import clip_boxes, decode_boxes, is_nonempty
from mrcnn_jax.ops.nms import suppress_overlaps
from mrcnn_jax.structures import Detections, Proposals


def predict(
    variables: dict[str, Any],
    images: UInt8[Array, "b h w 3"] | Float32[Array, "b h w 3"],
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
    config: TestConfig,
) -> Detections:
    """Returns the detections of each picture, in pixels of the network input; none for pictures of size (0, 0).

    `images` are RGB in 0..255, uint8 or, where the resize left fractions, float32; `image_hw` their sizes there.
    """
    maps = model.apply(variables, images, image_hw, method=model.extract_features)
    detections = _find(variables, maps, image_hw, canvas=images.shape[1:3], model=model, config=config)
    return _describe(variables, maps, detections, image_hw, model=model)


def predict_boxes(
    variables: dict[str, Any],
    images: UInt8[Array, "b h w 3"] | Float32[Array, "b h w 3"],
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
    config: TestConfig,
) -> Detections:
    """Returns the detections of `predict` without masks and keypoints."""
    maps = model.apply(variables, images, image_hw, method=model.extract_features)
    return _find(variables, maps, image_hw, canvas=images.shape[1:3], model=model, config=config)


def describe_boxes(
    variables: dict[str, Any],
    images: UInt8[Array, "b h w 3"] | Float32[Array, "b h w 3"],
    image_hw: Int[Array, "b 2"],
    detections: Detections,
    *,
    model: nn.Module,
) -> Detections:
    """Returns these detections, boxes found anywhere, with the masks and keypoints that the heads see in them."""
    maps = model.apply(variables, images, image_hw, method=model.extract_features)
    return _describe(variables, maps, detections, image_hw, model=model)


def _find(
    variables: dict[str, Any],
    maps: tuple[Array, ...],
    image_hw: Array,
    *,
    canvas: tuple[int, ...],
    model: nn.Module,
    config: TestConfig,
) -> Detections:
    proposals = propose_batch(variables, maps, image_hw, canvas=canvas, model=model, config=config)
    return classify_proposals(variables, maps, proposals, image_hw, model=model, config=config)


def _describe(
    variables: dict[str, Any], maps: tuple[Array, ...], detections: Detections, image_hw: Array, *, model: nn.Module
) -> Detections:
    if model.config.masks:
        detections = add_masks(variables, maps, detections, image_hw, model=model)
    if model.config.num_keypoints:
        detections = add_heat_maps(variables, maps, detections, image_hw, model=model)
    return detections


def propose_batch(
    variables: dict[str, Any],
    maps: tuple[Array, ...],
    image_hw: Array,
    *,
    canvas: tuple[int, ...],
    model: nn.Module,
    config: TestConfig,
) -> Proposals:
    """Returns the best `config.post_nms_top_n` proposals of each picture."""
    logits, deltas = model.apply(variables, maps, method=model.score_anchors)

    def one(logits: Any, deltas: Any, image_hw: Array) -> Proposals:
        return propose(
            logits,
            deltas,
            make_anchors(canvas, image_hw, model.config),
            image_hw,
            pre_nms_top_n=config.pre_nms_top_n,
            post_nms_top_n=config.post_nms_top_n,
            nms_threshold=config.rpn_nms_threshold,
            min_side=model.config.min_proposal_side,
            score=model.config.proposal_score,
        )

    return jax.vmap(one)(logits, deltas, image_hw)


def classify_proposals(
    variables: dict[str, Any],
    maps: tuple[Array, ...],
    proposals: Proposals,
    image_hw: Array,
    *,
    model: nn.Module,
    config: TestConfig,
) -> Detections:
    """Returns each picture's detections without masks and keypoints."""
    pool_size = model.config.box_pool_size
    features = pool_rois(maps, proposals.boxes, image_hw, output_size=pool_size, config=model.config)
    logits, deltas = model.apply(variables, features, method=model.classify_rois)
    shape = proposals.valid.shape  # [B, P]

    def one(logits: Array, deltas: Array, proposals: Proposals, image_hw: Array) -> Detections:
        return select_detections(logits, deltas, proposals, image_hw, model_config=model.config, config=config)

    return jax.vmap(one)(logits.reshape(*shape, -1), deltas.reshape(*shape, -1, 4), proposals, image_hw)


def select_detections(
    logits: Float[Array, "p c"],
    deltas: Float[Array, "p c 4"],
    proposals: Proposals,
    image_hw: Int[Array, "2"],
    *,
    model_config: ModelConfig,
    config: TestConfig,
) -> Detections:
    """Returns the detections of one picture: score above threshold, NMS within each class, best `max_detections`.

    Only the `config.max_candidates` best (proposal, class) pairs enter NMS. That is exact as long as `max_detections`
    of them are kept or no more pairs than that pass the score threshold.
    """
    scores = jax.nn.softmax(logits, axis=-1)[:, 1:]  # [P, C] without background
    num_classes = scores.shape[1]
    passing = proposals.valid[:, None] & (scores > config.score_threshold)  # False for NaN
    num_candidates = min(config.max_candidates, passing.size)
    top_scores, top = jax.lax.top_k(jnp.where(passing, scores, -1.0).reshape(-1), num_candidates)
    proposal, label = top // num_classes, top % num_classes + 1  # [K]
    boxes = decode_boxes(deltas[proposal, label], proposals.boxes[proposal], model_config.box_delta_weights)
    boxes = clip_boxes(boxes, image_hw)
    valid = (top_scores >= 0.0) & is_nonempty(boxes, config.min_detection_side)
    kept = suppress_overlaps(
        jnp.where(valid[:, None], boxes, 0.0),
        top_scores,
        valid,
        label,
        iou_threshold=config.nms_threshold,
        max_kept=config.max_detections,
    )
    return Detections(
        boxes=jnp.where(kept.valid[:, None], boxes[kept.indices], 0.0),
        scores=jnp.where(kept.valid, top_scores[kept.indices], 0.0),
        labels=jnp.where(kept.valid, label[kept.indices], 0),
        masks=jnp.zeros((config.max_detections, 0, 0), jnp.float32),
        heat_maps=jnp.zeros((config.max_detections, 0, 0, 0), jnp.float32),
        valid=kept.valid,
    )


def add_masks(
    variables: dict[str, Any],
    maps: tuple[Array, ...],
    detections: Detections,
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
) -> Detections:
    """Returns the detections with mask probabilities [B, D, m, m]; the mask head sees the final boxes only."""
    config = model.config
    features = pool_rois(maps, detections.boxes, image_hw, output_size=config.mask_pool_size, config=config)
    labels = detections.labels.reshape(-1)
    logits = model.apply(variables, features, labels, method=model.predict_masks)
    masks = MASK_VARIANTS[config.mask_activation].probabilities(logits, labels)
    masks = masks.reshape(*detections.valid.shape, config.mask_size, config.mask_size)
    masks = jnp.where(detections.valid[..., None, None], masks, 0.0)
    return dataclasses.replace(detections, masks=masks)


def add_heat_maps(
    variables: dict[str, Any],
    maps: tuple[Array, ...],
    detections: Detections,
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
) -> Detections:
    """Returns the detections with their keypoints' heat maps [B, D, K, h, h], logits (paper section 5)."""
    config = model.config
    features = pool_rois(maps, detections.boxes, image_hw, output_size=config.keypoint_pool_size, config=config)
    logits = model.apply(variables, features, method=model.predict_keypoints)  # [B*D, h, h, K]
    heat_maps = logits.transpose(0, 3, 1, 2).reshape(*detections.valid.shape, -1, *logits.shape[1:3])
    heat_maps = jnp.where(detections.valid[..., None, None, None], heat_maps, 0.0)
    return dataclasses.replace(detections, heat_maps=heat_maps)
