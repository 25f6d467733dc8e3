"""torchvision's array names, for its detectors with ResNet and ResNeXt backbones.

These include `maskrcnn_resnet50_fpn`, its `_v2`, `keypointrcnn_resnet50_fpn` and `fasterrcnn_resnet50_fpn`. Some layers
have other names in files from before torchvision 0.13; these are renamed first. torchvision loads the first COCO
checkpoints (frozen batch norm, without `num_batches_tracked`) with eps 0 instead of the 1e-5 of their training; batch
norm that counts its batches keeps 1e-5. Classes are COCO's 91 ids with gaps, and background is class 0.
"""

import re
from functools import partial
from typing import Any

import numpy as np

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.config.conventions import TORCHVISION
from mrcnn_jax.weights.families import (
    NO_HINTS,
    Arrays,
    Family,
    Hints,
    Recognised,
    count_blocks,
    find_backbone,
    find_widths,
    need,
    stated,
)
from mrcnn_jax.weights.mapping import (
    Row,
    conv_kernel,
    dense_kernel,
    flipped_upconv_kernel,
    keep,
    module,
    norm,
    roi_dense,
    squeeze_1x1,
    stem_kernel,
    upconv_kernel,
)

BODY = "backbone.body."
OLD_NAMES = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$", lambda match: _mask_fcn(match)),
)
"""Patterns of names from before torchvision 0.13, and their replacements."""


def _mask_fcn(match: re.Match[str]) -> str:
    return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"


def is_surplus(name: str) -> bool:
    """Returns whether an array of this name may be left unused: a counter that no computation needs."""
    return name.endswith(".num_batches_tracked")


def rename(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns the arrays under their current names."""
    renamed = {}
    for name, array in arrays.items():
        for pattern, new in OLD_NAMES:
            name = re.sub(pattern, new, name)
        renamed[name] = array
    return renamed


def find_norm_eps(arrays: Arrays, backbone: str, hints: Hints) -> tuple[float, tuple[str, ...]]:
    """Returns the eps of the backbone's norms, and a note if it was assumed.

    Frozen norms do not count batches. Only the first COCO weights, which have a ResNet-50, are used with eps 0, and so
    are models that were fine-tuned from them; models trained from an ImageNet backbone have 1e-5.
    """
    if f"{BODY}bn1.num_batches_tracked" in arrays:
        return 1e-5, ()
    if {"weights", "weights_backbone", "pretrained"} & set(hints.args):
        return (0.0 if hints.args.get("weights") or hints.args.get("pretrained") else 1e-5), ()
    if backbone != "resnet50":
        return 1e-5, ()
    problem = "model.norm_eps 0, as in torchvision's COCO weights of this model and in models fine-tuned from them."
    return 0.0, (stated(problem, "--model.norm-eps 1e-5 (training started from an ImageNet backbone)"),)


def recognise(arrays: Arrays, hints: Hints = NO_HINTS) -> Recognised:
    """Returns the configuration that these (current) names and shapes, and the training script's options, imply."""
    prefix = BODY
    blocks = tuple(count_blocks(arrays, rf"{re.escape(prefix)}layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    backbone = find_backbone(
        blocks, need(arrays, f"{prefix}layer1.0.conv1.weight"), need(arrays, f"{prefix}layer1.0.conv2.weight")
    )
    keypoints = arrays.get("roi_heads.keypoint_predictor.kps_score_lowres.weight")
    masks = "roi_heads.mask_predictor.conv5_mask.weight" in arrays
    norm_eps, notes = find_norm_eps(arrays, backbone, hints)
    convs = count_blocks(arrays, r"roi_heads\.box_head\.(\d)\.1\.weight")
    fields: dict[str, Any] = TORCHVISION.model | {
        "backbone": backbone,
        "num_classes": need(arrays, "roi_heads.box_predictor.cls_score.weight").shape[0] - 1,
        "norm_eps": norm_eps,
        "head_norm": "frozen_bn" if "backbone.fpn.inner_blocks.0.1.running_mean" in arrays else "none",
        "rpn_convs": count_blocks(arrays, r"rpn\.head\.conv\.(\d)\.0\.weight"),
        "box_head_convs": convs,
        "box_head_fcs": 1 if convs else 2,
        "masks": masks,
        "num_keypoints": 0 if keypoints is None else keypoints.shape[1],
    }
    if not convs:
        fcs = ("roi_heads.box_head.fc6.weight", "roi_heads.box_head.fc7.weight")
        convs_of_masks = r"roi_heads\.mask_head\.(\d)\.0\.weight"
        fields |= find_widths(
            arrays, "backbone.fpn.inner_blocks.0.0.weight", fcs, "roi_heads.mask_head.0.0.weight", convs_of_masks
        )
    model = ModelConfig(**fields)
    kind = "Keypoint R-CNN" if model.num_keypoints else "Mask R-CNN" if masks else "Faster R-CNN"
    version = " v2" if convs else ""
    name = f"torchvision {kind}{version}, {backbone} FPN, {model.num_classes + 1} classes with background"
    return Recognised(name, model, TestConfig(**TORCHVISION.test), hints.input_format or "rgb", notes)


def backbone_rows(model_config: ModelConfig, prefix: str, target: str, *, is_bgr: bool = False) -> list[Row]:
    """Returns the rows of the backbone in torchvision's names; with C4 the last stage belongs to the heads."""
    trained = model_config.norm == "sync_bn"
    rows = module(f"{prefix}conv1", f"{target}/stem/conv", partial(stem_kernel, is_bgr=is_bgr), bias=False)
    rows += norm(f"{prefix}bn1", f"{target}/stem/norm", trained=trained)
    num_convs = 3 if model_config.layout.has_bottlenecks else 2
    for stage, blocks in enumerate(model_config.layout.blocks):
        for block in range(blocks):
            home = "res5" if model_config.neck == "c4" and stage == 3 else target
            theirs, ours = f"{prefix}layer{stage + 1}.{block}", f"{home}/layer{stage + 1}_{block}"
            for index in range(1, num_convs + 1):
                rows += module(f"{theirs}.conv{index}", f"{ours}/conv{index}/conv", conv_kernel, bias=False)
                rows += norm(f"{theirs}.bn{index}", f"{ours}/conv{index}/norm", trained=trained)
            if block == 0 and (stage > 0 or num_convs == 3):
                rows += module(f"{theirs}.downsample.0", f"{ours}/downsample/conv", conv_kernel, bias=False)
                rows += norm(f"{theirs}.downsample.1", f"{ours}/downsample/norm", trained=trained)
    return rows


def head_conv(model_config: ModelConfig, source: str, target: str) -> list[Row]:
    """Returns the rows of a convolution of the FPN, box or mask head, with a bias or with batch norm."""
    if model_config.head_norm == "none":
        return module(f"{source}.0", f"{target}/conv", conv_kernel)
    return module(f"{source}.0", f"{target}/conv", conv_kernel, bias=False) + norm(f"{source}.1", f"{target}/norm")


def table(model_config: ModelConfig, arrays: Arrays, is_bgr: bool = False) -> list[Row]:
    """Returns all rows of a model."""
    rows = backbone_rows(model_config, BODY, "backbone", is_bgr=is_bgr)
    for index in range(4):
        rows += head_conv(model_config, f"backbone.fpn.inner_blocks.{index}", f"fpn/lateral{index + 2}")
        rows += head_conv(model_config, f"backbone.fpn.layer_blocks.{index}", f"fpn/output{index + 2}")
    for index in range(model_config.rpn_convs):
        rows += module(f"rpn.head.conv.{index}.0", f"rpn_head/conv{index + 1 if index else ''}", conv_kernel)
    rows += module("rpn.head.cls_logits", "rpn_head/objectness", conv_kernel)
    rows += module("rpn.head.bbox_pred", "rpn_head/deltas", conv_kernel)
    if model_config.box_head_convs:
        for index in range(model_config.box_head_convs):
            rows += head_conv(model_config, f"roi_heads.box_head.{index}", f"box_head/conv{index + 1}")
        flat = model_config.box_head_convs + 1  # after torch's Flatten
        rows += module(f"roi_heads.box_head.{flat}", "box_head/fc1", roi_dense(model_config.box_head_conv_dim))
    else:
        rows += module("roi_heads.box_head.fc6", "box_head/fc1", roi_dense(model_config.fpn_channels))
        rows += module("roi_heads.box_head.fc7", "box_head/fc2", dense_kernel)
    rows += module("roi_heads.box_predictor.cls_score", "box_head/logits", dense_kernel)
    rows += module("roi_heads.box_predictor.bbox_pred", "box_head/deltas", dense_kernel)
    if model_config.masks:
        for index in range(model_config.mask_head_convs):
            rows += head_conv(model_config, f"roi_heads.mask_head.{index}", f"mask_head/conv{index + 1}")
        rows += module("roi_heads.mask_predictor.conv5_mask", "mask_head/upconv", upconv_kernel)
        rows += [
            Row("roi_heads.mask_predictor.mask_fcn_logits.weight", "params/mask_head/kernel", squeeze_1x1),
            Row("roi_heads.mask_predictor.mask_fcn_logits.bias", "params/mask_head/bias", keep),
        ]
    if model_config.num_keypoints:
        for index in range(model_config.keypoint_head_convs):
            rows += module(f"roi_heads.keypoint_head.{2 * index}", f"keypoint_head/conv{index + 1}", conv_kernel)
        rows += module("roi_heads.keypoint_predictor.kps_score_lowres", "keypoint_head", flipped_upconv_kernel)
    return rows


FAMILY = Family(
    name="torchvision",
    prefixes=(BODY, "backbone.fpn.", "rpn."),
    rename=rename,
    recognise=recognise,
    table=table,
    is_surplus=is_surplus,
)
