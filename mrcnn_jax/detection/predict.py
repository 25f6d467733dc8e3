"""Inference: proposals, box head, per-class NMS, and masks and keypoints of the detections (paper section 3.1).

Shapes: B images, P proposals, D detections, C classes.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, UInt8

from mrcnn_jax.config import TestConfig
from mrcnn_jax.detection.cascade import classify_in_cascade
from mrcnn_jax.detection.finiteness import features_finite, mark, rows_finite
from mrcnn_jax.detection.image_anchors import make_anchors
from mrcnn_jax.detection.pooling import pool_rois
from mrcnn_jax.detection.proposals import propose
from mrcnn_jax.detection.selection import select_detections
from mrcnn_jax.structures import Detections, Proposals


def predict(
    variables: dict[str, Any],
    images: UInt8[Array, "b h w 3"] | Float32[Array, "b h w 3"],
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
    test_config: TestConfig,
) -> Detections:
    """Returns the detections of each image, in pixels of the network input; none for images of size (0, 0).

    An image for which the network computed NaN or infinity may have none either; `not_finite` marks the parts that did.
    `images` are RGB in 0..255, uint8, or float32 if resizing left fractions; `image_hw` are their sizes on the canvas.
    """
    features = model.apply(variables, images, image_hw, method=model.extract_features)
    detections = detect(variables, features, image_hw, canvas=images.shape[1:3], model=model, test_config=test_config)
    return add_masks_and_keypoints(variables, features, detections, image_hw, model=model)


def predict_boxes(
    variables: dict[str, Any],
    images: UInt8[Array, "b h w 3"] | Float32[Array, "b h w 3"],
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
    test_config: TestConfig,
) -> Detections:
    """Returns the detections of `predict` without masks and keypoints."""
    features = model.apply(variables, images, image_hw, method=model.extract_features)
    return detect(variables, features, image_hw, canvas=images.shape[1:3], model=model, test_config=test_config)


def predict_masks_and_keypoints(
    variables: dict[str, Any],
    images: UInt8[Array, "b h w 3"] | Float32[Array, "b h w 3"],
    image_hw: Int[Array, "b 2"],
    detections: Detections,
    *,
    model: nn.Module,
) -> Detections:
    """Returns the detections with masks and keypoints in these images; their boxes may come from anywhere."""
    features = model.apply(variables, images, image_hw, method=model.extract_features)
    return add_masks_and_keypoints(variables, features, detections, image_hw, model=model)


def predict_proposals(
    variables: dict[str, Any],
    images: UInt8[Array, "b h w 3"] | Float32[Array, "b h w 3"],
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
    test_config: TestConfig,
) -> Proposals:
    """Returns the proposals from which `predict` selects detections, in pixels of the network input."""
    features = model.apply(variables, images, image_hw, method=model.extract_features)
    return propose_batch(variables, features, image_hw, canvas=images.shape[1:3], model=model, test_config=test_config)


def detect(
    variables: dict[str, Any],
    features: tuple[Array, ...],
    image_hw: Array,
    *,
    canvas: tuple[int, ...],
    model: nn.Module,
    test_config: TestConfig,
) -> Detections:
    """Returns the detections found in the features, without masks and keypoints."""
    proposals = propose_batch(variables, features, image_hw, canvas=canvas, model=model, test_config=test_config)
    classify = classify_proposals if model.config.box_head_stages == 1 else classify_in_cascade
    return classify(variables, features, proposals, image_hw, model=model, test_config=test_config)


def add_masks_and_keypoints(
    variables: dict[str, Any], features: tuple[Array, ...], detections: Detections, image_hw: Array, *, model: nn.Module
) -> Detections:
    """Returns the detections with masks and keypoints, if the model has these heads."""
    if model.config.masks:
        detections = add_masks(variables, features, detections, image_hw, model=model)
    if model.config.num_keypoints:
        detections = add_heat_maps(variables, features, detections, image_hw, model=model)
    return detections


def propose_batch(
    variables: dict[str, Any],
    features: tuple[Array, ...],
    image_hw: Array,
    *,
    canvas: tuple[int, ...],
    model: nn.Module,
    test_config: TestConfig,
) -> Proposals:
    """Returns the best `test_config.post_nms_top_n` proposals of each image; marks features and RPN if not finite."""
    logits, deltas = model.apply(variables, features, image_hw, method=model.score_anchors)
    # P6 is left out: it has cells of P5, and only the RPN reads it, whose outputs are checked.
    part = "the backbone or the FPN" if model.config.neck == "fpn" else "the backbone"
    not_finite = mark(None, part, features_finite(features[: len(model.config.roi_strides)], image_hw))
    not_finite = mark(not_finite, "the RPN", features_finite([*logits, *deltas], image_hw))

    def one(logits: Any, deltas: Any, image_hw: Array) -> Proposals:
        return propose(
            logits,
            deltas,
            make_anchors(canvas, image_hw, model.config),
            image_hw,
            pre_nms_top_n=test_config.pre_nms_top_n,
            post_nms_top_n=test_config.post_nms_top_n,
            nms_threshold=test_config.rpn_nms_threshold,
            min_side=model.config.min_proposal_side,
            score=model.config.proposal_score,
        )

    return dataclasses.replace(jax.vmap(one)(logits, deltas, image_hw), not_finite=not_finite)


def classify_proposals(
    variables: dict[str, Any],
    features: tuple[Array, ...],
    proposals: Proposals,
    image_hw: Array,
    *,
    model: nn.Module,
    test_config: TestConfig,
) -> Detections:
    """Returns each image's detections without masks and keypoints."""
    pool_size = model.config.box_pool_size
    (roi_features,) = pool_rois(
        features, [proposals.boxes], image_hw, output_sizes=[pool_size], model_config=model.config
    )
    logits, deltas = model.apply(variables, roi_features, method=model.classify_rois)
    shape = proposals.valid.shape  # [B, P]
    not_finite = mark(proposals.not_finite, "the box head", rows_finite([logits, deltas], proposals.valid))

    def one(logits: Array, deltas: Array, proposals: Proposals, image_hw: Array) -> Detections:
        return select_detections(
            logits, deltas, proposals, image_hw, model_config=model.config, test_config=test_config
        )

    found = jax.vmap(one)(logits.reshape(*shape, -1), deltas.reshape(*shape, -1, 4), proposals, image_hw)
    return dataclasses.replace(found, not_finite=not_finite)


def add_masks(
    variables: dict[str, Any],
    features: tuple[Array, ...],
    detections: Detections,
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
) -> Detections:
    """Returns the detections with mask probabilities [B, D, m, m]; the mask head uses only the final boxes."""
    model_config = model.config
    (roi_features,) = pool_rois(
        features, [detections.boxes], image_hw, output_sizes=[model_config.mask_pool_size], model_config=model_config
    )
    labels = detections.labels.reshape(-1)
    logits = model.apply(variables, roi_features, labels, method=model.predict_masks)
    not_finite = mark(detections.not_finite, "the mask head", rows_finite([logits], detections.valid))
    masks = mask_probabilities(logits, labels, activation=model_config.mask_activation)
    masks = masks.reshape(*detections.valid.shape, model_config.mask_size, model_config.mask_size)
    masks = jnp.where(detections.valid[..., None, None], masks, 0.0)
    return dataclasses.replace(detections, masks=masks, not_finite=not_finite)


def mask_probabilities(logits: Array, labels: Int[Array, "n"], *, activation: str) -> Float32[Array, "n m m"]:
    """Returns each RoI's probabilities for its own class.

    With `activation` "sigmoid", the logits are those of that class, [n, m, m]; with "softmax", they are [n, m, m, C].
    """
    if activation == "sigmoid":
        return jax.nn.sigmoid(logits)
    return jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), labels[:, None, None, None], axis=-1)[..., 0]


def add_heat_maps(
    variables: dict[str, Any],
    features: tuple[Array, ...],
    detections: Detections,
    image_hw: Int[Array, "b 2"],
    *,
    model: nn.Module,
) -> Detections:
    """Returns the detections with the heat-map logits [B, D, K, h, h] of their keypoints (paper section 5)."""
    model_config = model.config
    (roi_features,) = pool_rois(
        features,
        [detections.boxes],
        image_hw,
        output_sizes=[model_config.keypoint_pool_size],
        model_config=model_config,
    )
    logits = model.apply(variables, roi_features, method=model.predict_keypoints)  # [B*D, h, h, K]
    not_finite = mark(detections.not_finite, "the keypoint head", rows_finite([logits], detections.valid))
    heat_maps = logits.transpose(0, 3, 1, 2).reshape(*detections.valid.shape, -1, *logits.shape[1:3])
    heat_maps = jnp.where(detections.valid[..., None, None, None], heat_maps, 0.0)
    return dataclasses.replace(detections, heat_maps=heat_maps, not_finite=not_finite)
