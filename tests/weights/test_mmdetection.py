"""MMDetection's Mask R-CNN: every array arrives bit by bit, and the file's own configuration is used.

The expected leaves come from torchvision's names, whose mapping the golden tests confirm. MMDetection's arrays are made
from those by rules that are written here once more.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.errors import DataError
from mrcnn_jax.weights import detectron2, mmdetection, torchvision
from mrcnn_jax.weights.families import Hints
from mrcnn_jax.weights.mmdetection_settings import MAX_DEPTH, read_config
from tests.weights.reference import assert_bitwise, leaves_of, load_golden, make_arrays

Arrays = dict[str, np.ndarray]
IMAGENET_STD = (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def torch_arrays() -> Arrays:
    name = "torchvision_maskrcnn_resnet50_fpn"
    return make_arrays(name, load_golden(name))


MM_NAMES = (
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn_head.rpn_conv."),
    (r"^rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"^rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"^roi_heads\.box_head\.fc6\.", "roi_head.bbox_head.shared_fcs.0."),
    (r"^roi_heads\.box_head\.fc7\.", "roi_head.bbox_head.shared_fcs.1."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "roi_head.bbox_head.fc_cls."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_head.bbox_head.fc_reg."),
    (r"^roi_heads\.mask_head\.(\d)\.0\.", r"roi_head.mask_head.convs.\1.conv."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "roi_head.mask_head.upsample."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_head.mask_head.conv_logits."),
)
"""torchvision's names and MMDetection's, from `configs/_base_/models/mask-rcnn_r50_fpn.py` and the modules it names."""


def to_mmdetection(arrays: Arrays, *, is_bgr: bool) -> Arrays:
    """The same network: background last in the logits and absent elsewhere, and on request a BGR stem."""
    converted = {}
    for name, array in arrays.items():
        for pattern, new in MM_NAMES:
            name = re.sub(pattern, new, name)
        if name == "backbone.conv1.weight" and is_bgr:
            array = array[:, ::-1]
        elif "fc_cls" in name:
            array = np.concatenate([array[1:], array[:1]])
        elif "fc_reg" in name or "conv_logits" in name:
            array = array[4 if "fc_reg" in name else 1 :]
        converted[name] = array
    return converted


MM_CONFIG = """
auto_scale_lr = dict(base_batch_size=16, enable=False)
launcher = __import__('os').system('touch PWNED')
model = dict(
    backbone=dict(depth=50, style='{style}', type='ResNet'),
    data_preprocessor=dict(bgr_to_rgb={rgb}, mean=[
        {mean},
    ], std=[{std}], type='DetDataPreprocessor'),
    roi_head=dict(
        bbox_head=dict(bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2])),
        bbox_roi_extractor=dict(roi_layer=dict(output_size=7, sampling_ratio=0, type='RoIAlign'))),
    rpn_head=dict(anchor_generator=dict(ratios=[0.5, 1.0, 2.0], scales=[4], strides=[4, 8, 16, 32, 64])),
    test_cfg=dict(
        rcnn=dict(mask_thr_binary=0.4, max_per_img=50, nms=dict(iou_threshold=0.6, type='nms'), score_thr=0.1),
        rpn=dict(max_per_img=900, nms=dict(iou_threshold=0.8, type='nms'), nms_pre=1100)))
test_pipeline = [dict(type='LoadImageFromFile'), dict(keep_ratio=True, scale=(
    1000,
    600,
), type='Resize')]
"""
CAFFE = {"style": "caffe", "rgb": False, "mean": "103.53, 116.28, 123.675", "std": "1.0, 1.0, 1.0"}
PYTORCH = {"style": "pytorch", "rgb": True, "mean": "123.675, 116.28, 103.53", "std": "58.395, 57.12, 57.375"}


@pytest.mark.parametrize("values", [CAFFE, PYTORCH, {}], ids=["caffe", "pytorch", "unstated"])
def test_mmdetection(values: dict[str, Any], torch_arrays: Arrays, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    is_bgr = values is CAFFE
    classes = tuple(f"name {index}" for index in range(90))
    meta = {"cfg": MM_CONFIG.format(**values or CAFFE), "dataset_meta": {"classes": classes}}
    arrays = to_mmdetection(torch_arrays, is_bgr=is_bgr)
    assert mmdetection.FAMILY.matches(arrays)
    assert not any(family.matches(arrays) for family in (detectron2.FAMILY, torchvision.FAMILY))
    found = mmdetection.recognise(arrays, Hints(meta=meta if values else {}))
    model, test = found.model, found.test
    assert found.input_format == ("bgr" if is_bgr else "rgb") and model.stride_in_1x1 is is_bgr
    assert model.pixel_mean == (123.675, 116.28, 103.53)
    assert model.pixel_std == ((1.0, 1.0, 1.0) if is_bgr else IMAGENET_STD)
    assert model.sampling_ratio == 0 and model.roi_align_aligned and model.box_delta_weights == (10, 10, 5, 5)
    if values:
        assert model.anchor_sizes == (16, 32, 64, 128, 256) and found.class_names[1] == "name 1"
        assert (test.pre_nms_top_n, test.post_nms_top_n, test.rpn_nms_threshold) == (1100, 900, 0.8)
        assert (test.score_threshold, test.max_detections, test.nms_threshold) == (0.1, 50, 0.6)
        assert (test.short_side, test.max_side, test.mask_threshold) == (600, 1000, 0.4)
    else:
        assert found.notes[0].startswith("Assumed: RGB input and style='pytorch'") and found.class_names == ()
    expected = leaves_of(torchvision.FAMILY, torch_arrays, torchvision.recognise(torch_arrays))
    for name, count in (("box_head/deltas", 4), ("mask_head", 1)):
        for kind in ("kernel", "bias"):
            expected[f"params/{name}/{kind}"][..., :count] = 0
    assert_bitwise(leaves_of(mmdetection.FAMILY, arrays, found), expected)
    assert list(tmp_path.iterdir()) == []


def test_configurations_of_mmdetection_2_and_damaged_ones() -> None:
    old = "img_norm_cfg = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, -6.0], to_rgb=False)\nx = [f(), *a]\n"
    assert read_config({"config": old})["img_norm_cfg"]["std"] == [4.0, 5.0, -6.0]
    nested = f"x = {'[' * (MAX_DEPTH + 1)}{']' * (MAX_DEPTH + 1)}"
    for text in ("x = (", "\0", "x = " + "-" * 90_000 + "1", nested, "x = " + "(" * 10**5, "a." * 10**5 + "a", 5, None):
        assert not read_config({"cfg": text}).get("x")


def test_anchors_of_mmdetection_1_are_refused(torch_arrays: Arrays) -> None:
    cfg = "model = dict(rpn_head=dict(anchor_generator=dict(type='LegacyAnchorGenerator')))"
    with pytest.raises(DataError, match="anchors of MMDetection 1"):
        mmdetection.recognise(to_mmdetection(torch_arrays, is_bgr=False), Hints(meta={"cfg": cfg}))
