"""Detectron2's array names, for the FPN, C4 and DC5 models of its model zoo, with masks or keypoints, and cascades.

The arrays do not determine how images are normalised or where bottlenecks stride. If no `config.yaml` lies beside the
file (`detectron2_settings`), both follow from the backbone: MSRA's ResNets take BGR minus the mean and stride in the
1x1 convolution; FAIR's ResNeXts also divide by the standard deviation and stride in the 3x3. The first kernel is
converted from BGR to RGB unless the model was trained on RGB. Background moves from the last class to the first.
"""

from functools import partial
from typing import Any

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.config.conventions import DETECTRON2
from mrcnn_jax.weights.detectron2_settings import find_stated
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
)
from mrcnn_jax.weights.mapping import (
    Row,
    add_background,
    background_first,
    chain,
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

RESNEXT_STD = (58.395, 57.12, 57.375)
"""RGB standard deviations in Detectron2's configurations of ResNeXt backbones."""

MASKS = "roi_heads.mask_head.predictor.weight"
SURPLUS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.", "num_batches_tracked")
"""Parts of the names of arrays that are not needed: in older files they repeat the configuration."""


def is_surplus(name: str) -> bool:
    """Returns whether an array of this name may be left unused."""
    return any(part in name for part in SURPLUS)


def backbone_prefix(arrays: Arrays) -> str:
    """Returns the prefix of the backbone's names."""
    return "backbone.bottom_up." if "backbone.bottom_up.stem.conv1.weight" in arrays else "backbone."


def recognise(arrays: Arrays, hints: Hints = NO_HINTS) -> Recognised:
    """Returns the configuration that these names and shapes, and the settings beside the file, imply."""
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
    stages = count_blocks(arrays, r"roi_heads\.box_predictor\.(\d+)\.cls_score\.weight")
    logits = need(arrays, f"roi_heads.box_predictor.{'0.' if stages else ''}cls_score.weight")
    num_classes = logits.shape[0] - 1
    stated = find_stated(arrays, hints)
    fields: dict[str, Any] = DETECTRON2.model | {
        "backbone": backbone,
        "neck": neck,
        "num_classes": num_classes,
        "box_head_stages": max(stages, 1),
        "stride_in_1x1": not is_resnext,
        "pixel_std": RESNEXT_STD if is_resnext else DETECTRON2.model["pixel_std"],
        "size_divisor": 32 if neck == "fpn" else 1,
        "box_pool_size": 14 if neck == "c4" else 7,
        "masks": masks,
        "mask_head_dim": arrays["roi_heads.mask_head.deconv.weight"].shape[1] if masks else 256,
        "class_agnostic_masks": masks and num_classes > 1 and need(arrays, MASKS).shape[0] == 1,
        "num_keypoints": 0 if keypoints is None else keypoints.shape[1],
    }
    if neck == "fpn":
        first = f"roi_heads.box_head.{'0.' if stages else ''}"
        fcs = (f"{first}fc1.weight", f"{first}fc2.weight")
        convs = r"roi_heads\.mask_head\.mask_fcn(\d)\.weight"
        mask_conv = "roi_heads.mask_head.mask_fcn1.weight"
        fields |= find_widths(arrays, "backbone.fpn_lateral2.weight", fcs, mask_conv, convs)
    test = DETECTRON2.test | {"pre_nms_top_n": 1000 if neck == "fpn" else 6000} | stated.test
    model = ModelConfig(**fields | stated.model)
    kind = "Keypoint R-CNN" if model.num_keypoints else "Mask R-CNN" if masks else "Faster R-CNN"
    kind = f"Cascade {kind}" if stages else kind
    name = f"Detectron2 {kind}, {backbone} {neck.upper()}, {model.num_classes} classes"
    return Recognised(name, model, TestConfig(**test), stated.input_format, stated.notes)


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


def box_head_rows(model_config: ModelConfig, stage: int) -> list[Row]:
    """Returns the rows of a box head and its outputs, 0 for the first; in a cascade, the names have its number."""
    is_cascade = model_config.box_head_stages > 1
    number, ours = (f".{stage}" if is_cascade else ""), (f"box_head_{stage + 1}" if stage else "box_head")
    rows: list[Row] = []
    if model_config.neck != "c4":
        rows += module(f"roi_heads.box_head{number}.fc1", f"{ours}/fc1", roi_dense(model_config.feature_channels))
        rows += module(f"roi_heads.box_head{number}.fc2", f"{ours}/fc2", dense_kernel)
    predictor = f"roi_heads.box_predictor{number}"
    rows += module(f"{predictor}.cls_score", f"{ours}/logits", dense_kernel, classes=background_first)
    deltas = keep if is_cascade else partial(add_background, group=4)
    return rows + module(f"{predictor}.bbox_pred", f"{ours}/deltas", dense_kernel, classes=deltas)


def table(model_config: ModelConfig, arrays: Arrays, is_bgr: bool = True) -> list[Row]:
    """Returns all rows of a model."""
    rows = backbone_rows(model_config, backbone_prefix(arrays), "backbone", is_bgr=is_bgr)
    if model_config.neck == "fpn":
        for level in (2, 3, 4, 5):
            rows += module(f"backbone.fpn_lateral{level}", f"fpn/lateral{level}/conv", conv_kernel)
            rows += module(f"backbone.fpn_output{level}", f"fpn/output{level}/conv", conv_kernel)
    rows += module("proposal_generator.rpn_head.conv", "rpn_head/conv", conv_kernel)
    rows += module("proposal_generator.rpn_head.objectness_logits", "rpn_head/objectness", conv_kernel)
    rows += module("proposal_generator.rpn_head.anchor_deltas", "rpn_head/deltas", conv_kernel)
    if model_config.neck == "c4":
        rows += stage_rows(model_config, 3, "roi_heads.", "res5")
    for stage in range(model_config.box_head_stages):
        rows += box_head_rows(model_config, stage)
    if model_config.masks:
        for index in range(0 if model_config.neck == "c4" else model_config.mask_head_convs):
            rows += module(f"roi_heads.mask_head.mask_fcn{index + 1}", f"mask_head/conv{index + 1}/conv", conv_kernel)
        rows += module("roi_heads.mask_head.deconv", "mask_head/upconv", upconv_kernel)
        classes = keep if model_config.class_agnostic_masks else add_background
        rows += [
            Row(MASKS, "params/mask_head/kernel", chain(classes, squeeze_1x1)),
            Row("roi_heads.mask_head.predictor.bias", "params/mask_head/bias", classes),
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
