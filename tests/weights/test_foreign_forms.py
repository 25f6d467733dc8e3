"""Detectron2's RGB models and cascades, torchvision's variants and Hugging Face's names: arrays arrive bit by bit."""

import re
from pathlib import Path

import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.errors import DataError
from mrcnn_jax.weights import detectron2, torchvision
from mrcnn_jax.weights.detectron2_settings import read_settings
from mrcnn_jax.weights.families import Hints
from mrcnn_jax.weights.imagenet_backbone import read_backbone
from mrcnn_jax.weights.importing import open_weights_file
from tests.weights.reference import assert_bitwise, leaves_of, load_golden, make_arrays

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


def test_widths_and_anchors_of_own_models(torch_arrays: Arrays) -> None:
    """Widths of the heads follow from the shapes; the number of anchors needs an option, which the error names."""
    fc6, fc7 = np.zeros((512, 256 * 5 * 5), np.float32), np.zeros((512, 512), np.float32)
    box_head = {"fc6.weight": fc6, "fc6.bias": fc6[:, 0], "fc7.weight": fc7, "fc7.bias": fc7[0]}
    predictor = [f"roi_heads.box_predictor.{name}.weight" for name in ("cls_score", "bbox_pred")]
    arrays = torch_arrays | {f"roi_heads.box_head.{name}": array for name, array in box_head.items()}
    arrays |= {name: np.ascontiguousarray(arrays[name][:, :512]) for name in predictor}
    last = ("3.0.weight", "3.0.bias")
    arrays = {name: array for name, array in arrays.items() if not name.endswith(last) or "mask_head" not in name}
    found = torchvision.recognise(arrays)
    assert (found.model.box_head_dim, found.model.box_pool_size, found.model.mask_head_convs) == (512, 5, 3)
    assert leaves_of(torchvision.FAMILY, arrays, found)["params/box_head/fc1/kernel"].shape == (256 * 25, 512)
    more = {
        name: np.concatenate([torch_arrays[name]] * 2)
        for kind in ("weight", "bias")
        for name in (f"rpn.head.cls_logits.{kind}", f"rpn.head.bbox_pred.{kind}")
    }
    with pytest.raises(DataError, match=r"another number of anchors per cell: set --model\.anchor-ratios"):
        leaves_of(torchvision.FAMILY, torch_arrays | more, torchvision.recognise(torch_arrays | more))


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
