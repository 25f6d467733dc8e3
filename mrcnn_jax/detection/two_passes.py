"""`predict` in two passes, between which the host may change the boxes: what test-time augmentation merges.

Each pass computes the feature maps anew. Shapes: B images.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float32, Int, UInt8

from mrcnn_jax.config import TestConfig
from mrcnn_jax.detection.cascade import classify_in_cascade
from mrcnn_jax.detection.predict import classify_proposals, describe, propose_batch
from mrcnn_jax.structures import Detections


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
    proposals = propose_batch(variables, maps, image_hw, canvas=images.shape[1:3], model=model, config=config)
    classify = classify_proposals if model.config.box_head_stages == 1 else classify_in_cascade
    return classify(variables, maps, proposals, image_hw, model=model, config=config)


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
    return describe(variables, maps, detections, image_hw, model=model)
