"""MMDetection's array names (2.x and 3.x), for Faster and Mask R-CNN with a ResNet or ResNeXt and an FPN.

Conventions, from `configs/_base_/models/mask-rcnn_r50_fpn.py` and `mmdet/models`: labels count from 0 and background
is the last class of `fc_cls`; box deltas and masks have no background; the layers of a ResNet are named as those of
torchvision. Features of RoIs are flattened channels first. A RoI's level is floor(log2(side / 56 + 1e-6)). The RPN
ranks proposals by probability. The file's own configuration states pixels, stride and thresholds
(`mmdetection_settings`); without one, those of `style='pytorch'` are assumed.
"""

from functools import partial
from typing import Any

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.config.conventions import MMDETECTION
from mrcnn_jax.weights import torchvision
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
    keep,
    module,
    roi_dense,
    squeeze_1x1,
    upconv_kernel,
)
from mrcnn_jax.weights.mmdetection_settings import find_stated

MASK = "roi_head.mask_head"


def is_surplus(name: str) -> bool:
    """Returns whether an array of this name may be left unused: a counter, or MMCV's copy of averaged weights."""
    return name.endswith(".num_batches_tracked") or (name.startswith("ema_") and "." not in name)


def recognise(arrays: Arrays, hints: Hints = NO_HINTS) -> Recognised:
    """Returns the configuration that these names and shapes, and the file's own configuration, imply."""
    blocks = tuple(count_blocks(arrays, rf"backbone\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    kernels = (need(arrays, f"backbone.layer1.0.conv{index}.weight") for index in (1, 2))
    backbone = find_backbone(blocks, *kernels)
    stated = find_stated(hints)
    logits = need(arrays, "roi_head.bbox_head.fc_cls.weight")
    masks = f"{MASK}.conv_logits.weight" in arrays
    num_classes = logits.shape[0] - 1
    fields: dict[str, Any] = MMDETECTION.model | {
        "backbone": backbone,
        "num_classes": num_classes,
        "masks": masks,
        "class_agnostic_masks": masks and num_classes > 1 and arrays[f"{MASK}.conv_logits.weight"].shape[0] == 1,
    }
    fcs = ("roi_head.bbox_head.shared_fcs.0.weight", "roi_head.bbox_head.shared_fcs.1.weight")
    convs = r"roi_head\.mask_head\.convs\.(\d+)\.conv\.weight"
    fields |= find_widths(arrays, "neck.lateral_convs.0.conv.weight", fcs, f"{MASK}.convs.0.conv.weight", convs)
    model, test = ModelConfig(**fields | stated.model), TestConfig(**MMDETECTION.test | stated.test)
    kind = "Mask R-CNN" if masks else "Faster R-CNN"
    name = f"MMDetection {kind}, {backbone} FPN, {num_classes} classes"
    return Recognised(name, model, test, stated.input_format, stated.notes, class_names(hints, num_classes))


def class_names(hints: Hints, num_classes: int) -> tuple[str, ...]:
    """Returns the names of the classes in the file's `meta`, or () if it has none that fit."""
    data = hints.meta.get("dataset_meta")
    data = data if isinstance(data, dict) else {}
    names = data.get("classes", data.get("CLASSES", hints.meta.get("CLASSES")))
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) and name.isprintable() for name in names):
        return ()
    return tuple(names) if len(names) == len(set(names)) == num_classes else ()


def table(model_config: ModelConfig, arrays: Arrays, is_bgr: bool = False) -> list[Row]:
    """Returns all rows of a model."""
    rows = torchvision.backbone_rows(model_config, "backbone.", "backbone", is_bgr=is_bgr)
    for index in range(4):
        rows += module(f"neck.lateral_convs.{index}.conv", f"fpn/lateral{index + 2}/conv", conv_kernel)
        rows += module(f"neck.fpn_convs.{index}.conv", f"fpn/output{index + 2}/conv", conv_kernel)
    rows += module("rpn_head.rpn_conv", "rpn_head/conv", conv_kernel)
    rows += module("rpn_head.rpn_cls", "rpn_head/objectness", conv_kernel)
    rows += module("rpn_head.rpn_reg", "rpn_head/deltas", conv_kernel)
    rows += module("roi_head.bbox_head.shared_fcs.0", "box_head/fc1", roi_dense(model_config.fpn_channels))
    rows += module("roi_head.bbox_head.shared_fcs.1", "box_head/fc2", dense_kernel)
    rows += module("roi_head.bbox_head.fc_cls", "box_head/logits", dense_kernel, classes=background_first)
    deltas = partial(add_background, group=4)
    rows += module("roi_head.bbox_head.fc_reg", "box_head/deltas", dense_kernel, classes=deltas)
    if model_config.masks:
        for index in range(model_config.mask_head_convs):
            rows += module(f"{MASK}.convs.{index}.conv", f"mask_head/conv{index + 1}/conv", conv_kernel)
        rows += module(f"{MASK}.upsample", "mask_head/upconv", upconv_kernel)
        classes = keep if model_config.class_agnostic_masks else add_background
        rows.append(Row(f"{MASK}.conv_logits.weight", "params/mask_head/kernel", chain(classes, squeeze_1x1)))
        rows.append(Row(f"{MASK}.conv_logits.bias", "params/mask_head/bias", classes))
    return rows


FAMILY = Family(
    name="mmdetection",
    prefixes=("neck.lateral_convs.", "roi_head.bbox_head.", "rpn_head.rpn_conv."),
    rename=dict,
    recognise=recognise,
    table=table,
    is_surplus=is_surplus,
)
