"""The network in the parts between which proposals and detections are selected, for runtimes that select elsewhere.

Shapes: H x W canvas, P proposals, D detections, C classes, D channels, m mask side, K keypoints, h heat-map side.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrcnn_jax.config import Canvas, ModelConfig, TestConfig
from mrcnn_jax.detection.pooling import pool_rois
from mrcnn_jax.detection.predict import mask_probabilities
from mrcnn_jax.models.mask_rcnn import MaskRCNN

Array = Any


class NetworkPart(NamedTuple):
    """A function of arrays with a leading dimension of 1, and the names of its inputs and outputs in order."""

    compute: Callable[..., tuple[Array, ...]]
    inputs: dict[str, jax.ShapeDtypeStruct]
    outputs: tuple[str, ...]


def make_parts(
    variables: Mapping[str, Any], model_config: ModelConfig, test_config: TestConfig, canvas: Canvas
) -> dict[str, NetworkPart]:
    """Returns the parts network, boxes and, if the model has these heads, masks and heat_maps, with fixed shapes.

    network: images [1, H, W, 3], image_hw [1, 2] -> features_s, objectness logits_s [1, A], deltas_s at stride s
    boxes: rois [1, P, 4], image_hw, features_s -> class_logits [P, C + 1], box_deltas [P, C + 1, 4]
        In a cascade, boxes_1, boxes_2, ... are the stages, with deltas [P, 1, 4].
    masks: rois [1, D, 4], labels [D], image_hw, features_s -> probabilities [D, m, m] of each RoI's own label
    heat_maps: rois [1, D, 4], image_hw, features_s -> heat-map logits [D, K, h, h]
    """
    model, variables = MaskRCNN(model_config), dict(variables)
    num_pooled = len(model_config.roi_strides)

    def network(images: Array, image_hw: Array) -> tuple[Array, ...]:
        features = model.apply(variables, images, image_hw, method=model.extract_features)
        logits, deltas = model.apply(variables, features, image_hw, method=model.score_anchors)
        return (*features[:num_pooled], *logits, *deltas)

    def pool(features: tuple[Array, ...], rois: Array, image_hw: Array, size: int) -> Array:
        (pooled,) = pool_rois(features, [rois], image_hw, output_sizes=[size], model_config=model_config)
        return pooled

    def boxes(stage: int, rois: Array, image_hw: Array, *features: Array) -> tuple[Array, ...]:
        pooled = pool(features, rois, image_hw, model_config.box_pool_size)
        return model.apply(variables, pooled, stage, method=model.classify_rois)

    def masks(rois: Array, labels: Array, image_hw: Array, *features: Array) -> tuple[Array, ...]:
        pooled = pool(features, rois, image_hw, model_config.mask_pool_size)
        logits = model.apply(variables, pooled, labels, method=model.predict_masks)
        return (mask_probabilities(logits, labels, activation=model_config.mask_activation),)

    def heat_maps(rois: Array, image_hw: Array, *features: Array) -> tuple[Array, ...]:
        pooled = pool(features, rois, image_hw, model_config.keypoint_pool_size)
        return (model.apply(variables, pooled, method=model.predict_keypoints).transpose(0, 3, 1, 2),)

    pixels = jnp.float32 if test_config.resize == "float" else jnp.uint8
    image_hw = {"image_hw": jax.ShapeDtypeStruct((1, 2), jnp.int32)}
    of_network = {"images": jax.ShapeDtypeStruct((1, *canvas, 3), pixels), **image_hw}
    levels = [str(stride) for stride in model_config.feature_strides]
    names = [f"features_{stride}" for stride in levels[:num_pooled]]
    outputs = (*names, *(f"{name}_{stride}" for name in ("logits", "deltas") for stride in levels))
    shapes = jax.eval_shape(network, *of_network.values())[:num_pooled]
    features = dict(zip(names, shapes, strict=True))

    def rois(count: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {"rois": jax.ShapeDtypeStruct((1, count, 4), jnp.float32)}

    found = test_config.max_detections
    labels = {"labels": jax.ShapeDtypeStruct((found,), jnp.int32)}
    parts = {"network": NetworkPart(network, of_network, outputs)}
    for stage, name in enumerate(stage_names(model_config)):
        inputs = {**rois(test_config.post_nms_top_n), **image_hw, **features}
        parts[name] = NetworkPart(functools.partial(boxes, stage), inputs, ("class_logits", "box_deltas"))
    if model_config.masks:
        parts["masks"] = NetworkPart(masks, {**rois(found), **labels, **image_hw, **features}, ("masks",))
    if model_config.num_keypoints:
        parts["heat_maps"] = NetworkPart(heat_maps, {**rois(found), **image_hw, **features}, ("heat_maps",))
    return parts


def stage_names(model_config: ModelConfig) -> list[str]:
    """Returns the names of the parts with the box heads, in order."""
    stages = model_config.box_head_stages
    return ["boxes"] if stages == 1 else [f"boxes_{number}" for number in range(1, stages + 1)]
