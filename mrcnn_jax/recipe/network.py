"""The choices that concern the network: its size and heads, anchors, and slots for objects and detections."""

import numpy as np

from mrcnn_jax.categories import Category, keypoint_names
from mrcnn_jax.config import Config
from mrcnn_jax.data.box_facts import box_sides, scale_boxes
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.recipe.anchor_clusters import COVERED_IOU, Anchors, cluster_anchors, measure_anchors
from mrcnn_jax.recipe.choices import Choices
from mrcnn_jax.recipe.network_sizes import NetworkSize
from mrcnn_jax.recipe.recipe_input import DataSummary, RecipeInput

MOST_SLOTS = 500
"""Slots for objects beyond which memory and matching cost more than the objects of the fullest images are worth."""
SMALL_BITMAP, LARGE_BITMAP = 56, 112


def choose_network(choices: Choices, source: RecipeInput, network_size: NetworkSize) -> None:
    """Chooses backbone, normalisation, heads, classes and keypoints."""
    data, is_pretrained = source.data, source.is_pretrained
    choices.choose("model.backbone", network_size.backbone, f"A {network_size.name} network.")
    choices.choose(
        "model.backbone_width", network_size.backbone_width, "Channels of the first stage, part of that choice."
    )
    names = ", ".join(category.name for category in data.categories[:10])
    more = ", ..." if len(data.categories) > 10 else ""
    choices.choose("model.num_classes", len(data.categories), f"Classes of the training data: {names}{more}.")
    if is_pretrained:
        choices.choose("model.norm", "frozen_bn", "The batch statistics of pretrained weights stay as they are.")
        choices.choose("model.freeze_at", 2, "The first layers of pretrained weights need no training.")
    else:
        choices.choose(
            "model.norm", "group_norm", "From random weights, and with few images a step, batch norm does not work."
        )
        choices.choose("model.freeze_at", 0, "Random weights have to be trained from the first layer on.")
    choices.choose("model.head_norm", "group_norm", "The heads start from random weights.")
    choices.choose(
        "model.fpn_channels", network_size.fpn_channels, f"Widths of a {network_size.name} network; 256 in the paper."
    )
    choices.choose(
        "model.box_head_dim",
        network_size.box_head_dim,
        f"As above, for a {network_size.name} network; 1024 in the paper.",
    )
    if choices.choose("model.masks", data.has_masks, _masks_reason(data)):
        width, convs = network_size.mask_head
        choices.choose("model.mask_head_dim", width, f"As above, for a {network_size.name} network; 256 in the paper.")
        choices.choose("model.mask_head_convs", convs, f"As above, for a {network_size.name} network; 4 in the paper.")
    _choose_keypoints(choices, data.categories, network_size)


def _masks_reason(data: DataSummary) -> str:
    return "Objects have masks." if data.has_masks else "No object has a mask, so there is nothing to train masks on."


def _choose_keypoints(choices: Choices, categories: tuple[Category, ...], network_size: NetworkSize) -> None:
    try:
        names = keypoint_names(categories)
    except ValueError as error:
        if choices.given.get("model.num_keypoints") == 0:
            names = ()
        else:
            raise ConfigError(f"{error} Prepare one of them, or pass --model.num-keypoints 0.") from None
    if not names and "model.num_keypoints" not in choices.given:
        return
    if not choices.choose("model.num_keypoints", len(names), f"Keypoints of the training data: {', '.join(names)}."):
        return
    width, convs = network_size.keypoint_head
    choices.choose("model.keypoint_head_dim", width, f"For a {network_size.name} network; 512 in the paper.")
    choices.choose("model.keypoint_head_convs", convs, f"For a {network_size.name} network; 8 in the paper.")
    has_sides = len(names) < 2 or any("left" in name.lower() for name in names)
    if not has_sides and not choices.given.get("model.keypoint_flip"):
        choices.choose(
            "data.flip_probability",
            0.0,
            "The names of the keypoints do not contain left and right, so nothing is known of what a flip exchanges; "
            "model.keypoint_flip may state it.",
        )


def choose_anchors(choices: Choices, source: RecipeInput, config: Config) -> Anchors:
    """Chooses anchors for the boxes at the short sides of training, and returns them with their coverage."""
    data = config.data
    facts = source.data.facts
    boxes = np.concatenate([scale_boxes(facts, side, data.max_side, data.canvases) for side in data.short_sides])
    strides = config.model.feature_strides
    given_sizes, given_ratios = (choices.given.get(f"model.anchor_{name}") for name in ("sizes", "ratios"))
    if given_sizes is None and len(strides) > 1:
        anchors = cluster_anchors(boxes, strides, ratios=given_ratios or ())
    else:
        ratios = given_ratios or config.model.anchor_ratios
        sizes = given_sizes or config.model.anchor_sizes
        anchors = measure_anchors(boxes, sizes, ratios, strides if len(sizes) == len(strides) else strides * len(sizes))
    sides = box_sides(boxes).prod(axis=1) ** 0.5
    low, middle, high = np.quantile(sides, [0.1, 0.5, 0.9])
    heights = box_sides(boxes)[:, 1] / np.maximum(box_sides(boxes)[:, 0], 1e-3)
    choices.choose(
        "model.anchor_sizes",
        anchors.sizes,
        f"By k-means over {len(facts.boxes)} boxes at these sizes, at least two strides each: {anchors.coverage:.1%} "
        f"of the boxes have an anchor of IoU {COVERED_IOU} or more, the mean IoU is {anchors.mean_iou:.2f}. The sides "
        f"of objects are {low:.0f}, {middle:.0f} and {high:.0f} px (tenth, fiftieth and ninetieth percentile).",
    )
    low, middle, high = np.quantile(heights, [0.1, 0.5, 0.9])
    choices.choose(
        "model.anchor_ratios",
        anchors.ratios,
        f"Height / width, by the same k-means; those of objects are {low:.2f}, {middle:.2f} and {high:.2f} (the same "
        "percentiles).",
    )
    return anchors


def choose_slots(choices: Choices, source: RecipeInput, object_side: float) -> None:
    """Chooses the slots for objects, proposals and detections; `object_side` is the ninetieth percentile in pixels."""
    data = source.data
    counts = data.facts.counts
    slots = min(-(-max(data.max_count, 1) // 4) * 4, MOST_SLOTS)
    num_beyond = int(np.maximum(counts - slots, 0).sum())
    lost = f" {num_beyond} of {counts.sum()} objects are beyond it." if num_beyond else " None is left out."
    choices.choose("data.max_objects", slots, f"The fullest image has {data.max_count} objects.{lost}")
    bitmap = SMALL_BITMAP if object_side <= SMALL_BITMAP else LARGE_BITMAP
    choices.choose(
        "data.mask_size", bitmap, f"Side of the stored masks: nine of ten objects have at most {object_side:.0f} px."
    )
    usual = int(np.quantile(counts, 0.95))
    proposals = int(np.clip(-(-4 * usual // 50) * 50, 150, 500))
    choices.choose("targets.post_nms_top_n", proposals, f"Proposals: 95 % of the images have at most {usual} objects.")
    choices.choose("targets.pre_nms_top_n", 2 * proposals, "Twice that before NMS on each level.")
    is_large = choices.values["model.box_head_dim"] >= 1024
    samples, share = (256, 0.25) if is_large else (64, 0.5)
    choices.choose("targets.roi_samples", samples, "RoIs sampled per image; 512 in the paper, whose heads are larger.")
    choices.choose("targets.roi_foreground_fraction", share, "Masks are learned from foreground RoIs alone.")
    detections = int(min(max(100, -(-data.max_count * 4 // 3 // 50) * 50), 1000))
    detections = choices.choose(
        "test.max_detections", detections, f"More than the {data.max_count} objects of the fullest image; COCO has 100."
    )
    kept = max(proposals, 2 * detections)
    choices.choose("test.post_nms_top_n", kept, "Proposals at test time: at least two for each detection.")
    choices.choose("test.pre_nms_top_n", max(kept, 2 * proposals), "At least as many before NMS on each level.")
    choices.choose(
        "test.max_candidates", min(4096, kept * min(len(data.categories), 4)), "Pairs of box and class that enter NMS."
    )
