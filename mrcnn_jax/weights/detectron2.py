"""Detectron2's array names, for the FPN, C4 and DC5 models of its model zoo, with masks or keypoints.

A file does not record how images are normalised or where bottlenecks stride. Both follow from the backbone: MSRA's
ResNets take BGR minus the mean and stride in the 1x1 convolution; FAIR's ResNeXts also divide by the standard deviation
and stride in the 3x3. The first kernel is converted from BGR to RGB. Background moves from the last class to the first.
"""

from functools import partial
from typing import Any

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.config.conventions import DETECTRON2
from mrcnn_jax.weights.families import Arrays, Family, Recognised, count_blocks, find_backbone, need
from mrcnn_jax.weights.mapping import (
    Row,
    add_background,
    background_first,
    chain,
    conv_kernel,
    dense_kernel,
    flipped_upconv_kernel,
    module,
    norm,
    roi_dense,
    squeeze_1x1,
    stem_kernel,
    upconv_kernel,
)

RESNEXT_STD = (58.395, 57.12, 57.375)
"""RGB standard deviations in Detectron2's configurations of ResNeXt backbones."""

SURPLUS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.", "num_batches_tracked")
"""Parts of the names of arrays that are not needed: in older files they repeat the configuration."""


def is_surplus(name: str) -> bool:
    """Returns whether an array of this name may be left unused."""
    return any(part in name for part in SURPLUS)


def backbone_prefix(arrays: Arrays) -> str:
    """Returns the prefix of the backbone's names."""
    return "backbone.bottom_up." if "backbone.bottom_up.stem.conv1.weight" in arrays else "backbone."


def recognise(arrays: Arrays) -> Recognised:
    """Returns the configuration that these names and shapes imply."""
    prefix = backbone_prefix(arrays)
    has_res5 = "roi_heads.res5.0.conv1.weight" in arrays
    blocks = tuple(
        count_blocks(arrays, rf"{'roi_heads.' if has_res5 and stage == 5 else prefix}res{stage}\.(\d+)\.")
        for stage in (2, 3, 4, 5)
    )
    backbone = find_backbone(
        blocks, need(arrays, f"{prefix}res2.0.conv1.weight"), need(arrays, f"{prefix}res2.0.conv2.weight")
    )
    is_resnext = backbone.startswith("resnext")
    neck = "c4" if has_res5 else "fpn" if "backbone.fpn_lateral2.weight" in arrays else "dc5"
    keypoints = arrays.get("roi_heads.keypoint_head.score_lowres.weight")
    masks = "roi_heads.mask_head.deconv.weight" in arrays
    fields: dict[str, Any] = DETECTRON2.model | {
        "backbone": backbone,
        "neck": neck,
        "num_classes": need(arrays, "roi_heads.box_predictor.cls_score.weight").shape[0] - 1,
        "stride_in_1x1": not is_resnext,
        "pixel_std": RESNEXT_STD if is_resnext else DETECTRON2.model["pixel_std"],
        "size_divisor": 32 if neck == "fpn" else 1,
        "box_pool_size": 14 if neck == "c4" else 7,
        "masks": masks,
        "mask_head_dim": arrays["roi_heads.mask_head.deconv.weight"].shape[1] if masks else 256,
        "num_keypoints": 0 if keypoints is None else keypoints.shape[1],
    }
    test = DETECTRON2.test | {"pre_nms_top_n": 1000 if neck == "fpn" else 6000}
    model = ModelConfig(**fields)
    kind = "Keypoint R-CNN" if model.num_keypoints else "Mask R-CNN" if masks else "Faster R-CNN"
    name = f"Detectron2 {kind}, {backbone} {neck.upper()}, {model.num_classes} classes"
    return Recognised(name, model, TestConfig(**test))


def backbone_rows(model_config: ModelConfig, prefix: str, target: str, *, is_bgr: bool = True) -> list[Row]:
    """Returns the rows of the backbone's stem and stages in Detectron2's names."""
    rows = module(f"{prefix}stem.conv1", f"{target}/stem/conv", partial(stem_kernel, is_bgr=is_bgr), bias=False)
    rows += norm(f"{prefix}stem.conv1.norm", f"{target}/stem/norm", trained=model_config.norm == "sync_bn")
    for stage in range(3 if model_config.neck == "c4" else 4):
        rows += stage_rows(model_config, stage, prefix, target)
    return rows


def stage_rows(model_config: ModelConfig, stage: int, prefix: str, target: str) -> list[Row]:
    """Returns the rows of one stage, 0 for res2."""
    rows: list[Row] = []
    for block in range(model_config.layout.blocks[stage]):
        theirs, ours = f"{prefix}res{stage + 2}.{block}", f"{target}/layer{stage + 1}_{block}"
        convs = [("conv1", "conv1"), ("conv2", "conv2"), ("conv3", "conv3"), ("shortcut", "downsample")]
        for their_conv, our_conv in convs if block == 0 else convs[:3]:
            rows += module(f"{theirs}.{their_conv}", f"{ours}/{our_conv}/conv", conv_kernel, bias=False)
            rows += norm(
                f"{theirs}.{their_conv}.norm", f"{ours}/{our_conv}/norm", trained=model_config.norm == "sync_bn"
            )
    return rows


def table(model_config: ModelConfig, arrays: Arrays) -> list[Row]:
    """Returns all rows of a model."""
    rows = backbone_rows(model_config, backbone_prefix(arrays), "backbone")
    if model_config.neck == "fpn":
        for level in (2, 3, 4, 5):
            rows += module(f"backbone.fpn_lateral{level}", f"fpn/lateral{level}/conv", conv_kernel)
            rows += module(f"backbone.fpn_output{level}", f"fpn/output{level}/conv", conv_kernel)
    rows += module("proposal_generator.rpn_head.conv", "rpn_head/conv", conv_kernel)
    rows += module("proposal_generator.rpn_head.objectness_logits", "rpn_head/objectness", conv_kernel)
    rows += module("proposal_generator.rpn_head.anchor_deltas", "rpn_head/deltas", conv_kernel)
    if model_config.neck == "c4":
        rows += stage_rows(model_config, 3, "roi_heads.", "res5")
    else:
        rows += module("roi_heads.box_head.fc1", "box_head/fc1", roi_dense(model_config.feature_channels))
        rows += module("roi_heads.box_head.fc2", "box_head/fc2", dense_kernel)
    rows += module("roi_heads.box_predictor.cls_score", "box_head/logits", dense_kernel, classes=background_first)
    deltas = partial(add_background, group=4)
    rows += module("roi_heads.box_predictor.bbox_pred", "box_head/deltas", dense_kernel, classes=deltas)
    if model_config.masks:
        for index in range(0 if model_config.neck == "c4" else model_config.mask_head_convs):
            rows += module(f"roi_heads.mask_head.mask_fcn{index + 1}", f"mask_head/conv{index + 1}/conv", conv_kernel)
        rows += module("roi_heads.mask_head.deconv", "mask_head/upconv", upconv_kernel)
        rows += [
            Row("roi_heads.mask_head.predictor.weight", "params/mask_head/kernel", chain(add_background, squeeze_1x1)),
            Row("roi_heads.mask_head.predictor.bias", "params/mask_head/bias", add_background),
        ]
    if model_config.num_keypoints:
        for index in range(model_config.keypoint_head_convs):
            rows += module(
                f"roi_heads.keypoint_head.conv_fcn{index + 1}", f"keypoint_head/conv{index + 1}", conv_kernel
            )
        rows += module("roi_heads.keypoint_head.score_lowres", "keypoint_head", flipped_upconv_kernel)
    return rows


FAMILY = Family(
    name="detectron2",
    prefixes=("proposal_generator.", "backbone.bottom_up.", "backbone.fpn_", "backbone.stem.", "roi_heads.res5."),
    rename=dict,
    recognise=recognise,
    table=table,
    is_surplus=is_surplus,
)
