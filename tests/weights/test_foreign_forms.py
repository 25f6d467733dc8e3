"""Detectron2's RGB models and cascades, MMDetection's and Hugging Face's names: every array arrives bit by bit.

The expected leaves come from torchvision's names, whose mapping the golden tests confirm. The other families' arrays
are made from those by rules that are written here once more.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.errors import DataError
from mrcnn_jax.named_leaves import named_leaves
from mrcnn_jax.weights import detectron2, mmdetection, torchvision
from mrcnn_jax.weights.detectron2_settings import read_settings
from mrcnn_jax.weights.families import Hints, Recognised
from mrcnn_jax.weights.imagenet_backbone import read_backbone
from mrcnn_jax.weights.importing import WeightsFile, import_variables, open_weights_file
from mrcnn_jax.weights.mmdetection_settings import MAX_DEPTH, read_config
from tests.weights.reference import load_golden, make_arrays

Arrays = dict[str, np.ndarray]
STEM = "params/backbone/stem/conv/kernel"
IMAGENET_STD = (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def torch_arrays() -> Arrays:
    name = "torchvision_maskrcnn_resnet50_fpn"
    return make_arrays(name, load_golden(name))


@pytest.fixture(scope="module")
def d2_arrays() -> Arrays:
    return make_arrays("detectron2_r50_fpn", load_golden("detectron2_r50_fpn"))


def leaves_of(family: Any, arrays: Arrays, recognised: Recognised) -> Arrays:
    source = WeightsFile(Path("checkpoint"), "memory", family, arrays, recognised)
    return named_leaves(import_variables(source, recognised.model)[0])


def assert_bitwise(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    different = [name for name in expected if found[name].tobytes() != expected[name].tobytes()]
    assert different == []


def test_detectron2_models_trained_on_rgb(d2_arrays: Arrays) -> None:
    assumed = detectron2.recognise(d2_arrays)
    assert assumed.input_format == "bgr"
    assert "Assumed: Detectron2's BGR input" in assumed.notes[0] and "--input-format rgb" in assumed.notes[0]
    named = detectron2.recognise(d2_arrays, Hints(input_format="rgb"))
    assert named.input_format == "rgb" and "--model.pixel-std 58.395,57.12,57.375" in named.notes[0]
    bgr, rgb = (leaves_of(detectron2.FAMILY, d2_arrays, recognised) for recognised in (assumed, named))
    np.testing.assert_array_equal(rgb[STEM], bgr[STEM][:, :, ::-1])
    np.testing.assert_array_equal(
        rgb[STEM].transpose(3, 2, 0, 1), d2_arrays["backbone.bottom_up.stem.conv1.weight"], strict=True
    )
    assert_bitwise({**rgb, STEM: bgr[STEM]}, bgr)


def test_pixel_buffers_of_detectron2_name_the_order(d2_arrays: Arrays) -> None:
    mean = np.array([123.675, 116.28, 103.53], np.float32).reshape(3, 1, 1)
    buffers = {"pixel_mean": mean, "pixel_std": np.array(IMAGENET_STD, np.float32).reshape(3, 1, 1)}
    found = detectron2.recognise(d2_arrays | buffers)
    assert found.input_format == "rgb" and found.notes[0] == "Channels in RGB order: the file's pixel_mean."
    assert found.model.pixel_mean == (123.675, 116.28, 103.53) and found.model.pixel_std == IMAGENET_STD
    reversed_ = {name: array[::-1] for name, array in buffers.items()}
    found = detectron2.recognise(d2_arrays | reversed_)
    assert found.input_format == "bgr" and found.model.pixel_std == IMAGENET_STD
    against = detectron2.recognise(d2_arrays | reversed_, Hints(input_format="rgb"))
    assert against.notes[0] == "The file's pixel_mean is in BGR order, against --input-format rgb."


CONFIG = """
MODEL:
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: &id001
  - 58.395
  - 57.12
  - 57.375
  RESNETS: {STRIDE_IN_1X1: false}
  ANCHOR_GENERATOR: {OFFSET: 0.0, SIZES: [[16], [32], [64], [128], [256]], ASPECT_RATIOS: [[0.5, 1.0, 2.0]]}
  ROI_BOX_HEAD: {POOLER_TYPE: ROIAlign, POOLER_SAMPLING_RATIO: 2}
  ROI_HEADS: {SCORE_THRESH_TEST: 0.3}
INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 640, MAX_SIZE_TEST: 1000}
"""


def test_the_configuration_beside_a_detectron2_file(tmp_path: Path, d2_arrays: Arrays) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    np.savez(tmp_path / "model_final.npz", **d2_arrays)
    found = open_weights_file(tmp_path / "model_final.npz").recognised
    assert found.input_format == "rgb" and "INPUT.FORMAT of config.yaml beside the file" in found.notes[0]
    model, test = found.model, found.test
    assert (model.pixel_std, model.stride_in_1x1, model.sampling_ratio) == (IMAGENET_STD, False, 2)
    assert model.anchor_sizes == (16, 32, 64, 128, 256) and not model.roi_align_aligned
    assert (test.short_side, test.max_side, test.score_threshold) == (640, 1000, 0.3)
    assert test.canvases == ((640, 1024), (1024, 640))
    with pytest.raises(DataError, match=r"config\.yaml beside it sets MODEL\.ANCHOR_GENERATOR\.OFFSET to 0\.5"):
        detectron2.recognise(d2_arrays, Hints(settings={"MODEL.ANCHOR_GENERATOR.OFFSET": 0.5}))
    with pytest.raises(DataError, match=r"INPUT\.FORMAT to YUV"):
        detectron2.recognise(d2_arrays, Hints(settings={"INPUT.FORMAT": "YUV"}))


def test_other_and_broken_configurations_beside_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    assert read_settings(tmp_path / "model.pth") == {}
    for text in ("name: other\n", "- MODEL\n", "", "MODEL: 3\nINPUT: {}\n", f"{CONFIG}\nmore: {{<<: {{a: 1}}}}"):
        path.write_text(text)
        assert read_settings(tmp_path / "model.pth") == {}
    for text in ("MODEL: [", "MODEL: !!python/object/apply:os.system ['touch PWNED']"):
        path.write_text(text)
        with pytest.raises(DataError, match="cannot be read"):
            read_settings(tmp_path / "model.pth")


def test_a_cascade_of_detectron2(d2_arrays: Arrays) -> None:
    heads = {name: array for name, array in d2_arrays.items() if re.search("box_head|box_predictor", name)}
    cascade = {name: array for name, array in d2_arrays.items() if name not in heads}
    for name, array in heads.items():
        for stage in range(3):
            rows = array[:4] if "bbox_pred" in name else array
            cascade[re.sub("(box_head|box_predictor)", rf"\1.{stage}", name)] = rows + np.float32(stage)
    found = detectron2.recognise(cascade)
    assert found.name == "Detectron2 Cascade Mask R-CNN, resnet50 FPN, 80 classes" and found.model.box_head_stages == 3
    single = leaves_of(detectron2.FAMILY, d2_arrays, detectron2.recognise(d2_arrays))
    leaves = leaves_of(detectron2.FAMILY, cascade, found)
    for stage in range(3):
        head = f"params/box_head_{stage + 1}" if stage else "params/box_head"
        for name in ("fc1/kernel", "fc2/bias", "logits/kernel", "logits/bias"):
            np.testing.assert_array_equal(
                leaves[f"{head}/{name}"], single[f"params/box_head/{name}"] + np.float32(stage)
            )
        for name in ("deltas/kernel", "deltas/bias"):  # of the first class, since background has none
            rows = single[f"params/box_head/{name}"][..., 4:8] + np.float32(stage)
            np.testing.assert_array_equal(leaves[f"{head}/{name}"], rows)


def test_masks_of_detectron2_without_classes(d2_arrays: Arrays) -> None:
    one = {f"roi_heads.mask_head.predictor.{kind}" for kind in ("weight", "bias")}
    arrays = {name: array[:1] if name in one else array for name, array in d2_arrays.items()}
    found = detectron2.recognise(arrays)
    assert found.model.class_agnostic_masks
    kernel = leaves_of(detectron2.FAMILY, arrays, found)["params/mask_head/kernel"]
    np.testing.assert_array_equal(kernel[:, 0], arrays["roi_heads.mask_head.predictor.weight"][0, :, 0, 0])


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
    meta = {
        "cfg": MM_CONFIG.format(**values or CAFFE),
        "dataset_meta": {"classes": tuple(f"name {i}" for i in range(90))},
    }
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


def test_the_eps_of_torchvisions_frozen_norms(torch_arrays: Arrays) -> None:
    counted = torchvision.recognise(torch_arrays)
    assert counted.model.norm_eps == 1e-5 and counted.notes == ()
    frozen = {name: array for name, array in torch_arrays.items() if not name.endswith("num_batches_tracked")}
    assumed = torchvision.recognise(frozen)
    assert assumed.model.norm_eps == 0 and "add --model.norm-eps 1e-5" in assumed.notes[0]
    for args, eps in (
        ({"weights": None, "weights_backbone": "ResNet50_Weights.IMAGENET1K_V1"}, 1e-5),
        ({"weights": "MaskRCNN_ResNet50_FPN_Weights.COCO_V1"}, 0),
        ({"pretrained": True}, 0),
    ):
        stated = torchvision.recognise(frozen, Hints(args=args))
        assert stated.model.norm_eps == eps and stated.notes == ()


def test_the_prefix_of_an_own_module_is_dropped(tmp_path: Path, torch_arrays: Arrays) -> None:
    few = {name: array for name, array in torch_arrays.items() if re.match("backbone|rpn|.*predictor", name)}
    np.savez(tmp_path / "own.npz", **{f"detector.{name}": array for name, array in few.items()})
    assert set(open_weights_file(tmp_path / "own.npz").arrays) == set(few)
    backbone = {name.removeprefix("backbone.body."): array for name, array in few.items() if ".body." in name}
    np.savez(tmp_path / "resnet50.npz", **backbone)
    with pytest.raises(DataError, match=r"If it is a backbone, train from it: --train\.init-from FILE"):
        open_weights_file(tmp_path / "resnet50.npz")
    with pytest.raises(DataError, match="--take ema: it has only weights of the file"):
        open_weights_file(tmp_path / "own.npz", take="ema")


HF_NAMES = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^layer(\d)\.(\d+)\.", lambda match: f"encoder.stages.{int(match[1]) - 1}.layers.{match[2]}."),
    (r"\.conv(\d)\.", lambda match: f".layer.{int(match[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda match: f".layer.{int(match[1]) - 1}.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
)


@pytest.mark.parametrize("prefix", ["", "resnet."])
def test_backbones_of_hugging_face(prefix: str, torch_arrays: Arrays, tmp_path: Path) -> None:
    body = {name.removeprefix("backbone.body."): array for name, array in torch_arrays.items() if ".body." in name}
    renamed: Arrays = {"classifier.1.weight": np.zeros((3, 4), np.float32)}
    for name, array in body.items():
        for pattern, new in HF_NAMES:
            name = re.sub(pattern, new, name)
        renamed[f"{prefix}{name}"] = array
    np.savez(tmp_path / "body.npz", **body)
    np.savez(tmp_path / "hf.npz", **renamed)
    expected = read_backbone(tmp_path / "body.npz", ModelConfig())
    assert len(expected) == 265
    assert_bitwise(read_backbone(tmp_path / "hf.npz", ModelConfig()), expected)
