"""Importing a checkpoint: what does not fit is named, what fits travels whole into a weights folder."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.named_leaves import named_leaves
from mrcnn_jax.weights import imagenet_backbone
from mrcnn_jax.weights.coco_categories import COCO, COCO_WITH_GAPS, PERSON, default_categories
from mrcnn_jax.weights.folder import load_weights
from mrcnn_jax.weights.imagenet_backbone import CAFFE2_NAMES, read_backbone
from mrcnn_jax.weights.importing import check_sha256, import_variables, open_weights_file
from mrcnn_jax.weights.init_from import initialise
from tests.weights.reference import load_golden, load_image, make_arrays, make_source, pairwise_iou

ROOT = Path(__file__).parents[2]
NAME = "torchvision_maskrcnn_resnet50_fpn"


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return make_arrays(NAME, load_golden(NAME))


def problems_of(arrays: dict[str, np.ndarray]) -> str:
    source = make_source(arrays)
    with pytest.raises(DataError) as error:
        import_variables(source, source.recognised.model)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_array_is_named(arrays: dict) -> None:
    left = {key: array for key, array in arrays.items() if key != "rpn.head.cls_logits.bias"}
    message = problems_of(left)
    assert "rpn.head.cls_logits.bias is missing (for params/rpn_head/objectness/bias)" in message


def test_an_extra_and_a_renamed_array_are_named(arrays: dict) -> None:
    renamed = dict(arrays) | {"extra.weight": np.zeros((2, 3))}
    renamed["backbone.body.layer3.4.conv9.weight"] = renamed.pop("backbone.body.layer3.4.conv2.weight")
    message = problems_of(renamed)
    assert "extra.weight [2, 3] is unknown" in message
    assert "layer3.4.conv9.weight [256, 256, 3, 3] is unknown" in message
    assert "layer3.4.conv2.weight is missing" in message


def test_a_transposed_array_and_one_that_is_not_finite_are_named(arrays: dict) -> None:
    changed = dict(arrays)
    name = "roi_heads.box_head.fc6.weight"
    changed[name] = changed[name].T
    changed["backbone.body.bn1.bias"] = np.full(64, np.nan, np.float32)
    message = problems_of(changed)
    assert f"{name} [12544, 1024] does not fit params/box_head/fc1/kernel [12544, 1024]" in message
    assert "backbone.body.bn1.bias is not finite in 64 of 64 values" in message


def test_variances_that_half_precision_made_0_need_an_eps(tmp_path: Path, arrays: dict) -> None:
    """torchvision's first models have eps 0, and 1 / sqrt(0) is infinite: such a network finds nothing."""
    name = "backbone.body.layer3.1.bn2.running_var"
    counters = "num_batches_tracked"  # which files of frozen norms, whose eps is 0, lack
    changed = {key: array for key, array in arrays.items() if not key.endswith(counters)}
    changed[name] = np.where(np.arange(256) < 3, 0, changed[name]).astype(np.float32)
    message = problems_of(changed)
    assert f"{name} + model.norm_eps 0 is not positive in 3 of 256 values. Float16 turns small" in message
    assert message.endswith("set --model.norm-eps 1e-5, or use the float32 file.")
    source = make_source(changed)
    model = dataclasses.replace(source.recognised.model, norm_eps=1e-5)
    variables = import_variables(source, model)[0]
    variance = named_leaves(variables)["frozen/backbone/layer3_1/conv2/norm/var"]
    assert (variance == changed[name]).all()
    changed[name] = np.full(256, -0.25, np.float32)
    message = problems_of(changed)
    assert f"{name}, a variance, is negative in 256 of 256 values (smallest: -0.25)." in message
    backbone = {key.removeprefix("backbone.body."): array for key, array in changed.items() if "backbone.body." in key}
    np.savez(tmp_path / "backbone.npz", **backbone)
    with pytest.raises(DataError, match=r"layer3\.1\.bn2\.running_var, a variance, is negative in 256 of 256 values"):
        read_backbone(tmp_path / "backbone.npz", ModelConfig())


def test_names_of_no_family_and_of_a_missing_backbone_are_refused(tmp_path: Path, arrays: dict) -> None:
    np.savez(tmp_path / "odd.npz", weight=np.zeros(3))
    with pytest.raises(DataError, match="no detector of torchvision, Detectron2 or MMDetection"):
        open_weights_file(tmp_path / "odd.npz")
    with pytest.raises(ConfigError, match="expected one of torchvision, detectron2, mmdetection"):
        open_weights_file(tmp_path / "odd.npz", "paddle")
    with pytest.raises(DataError, match=r"layer1\.0\.conv1\.weight is missing"):
        open_weights_file(tmp_path / "odd.npz", "torchvision")


def test_older_names_are_todays(arrays: dict) -> None:
    old = {
        key.replace("_blocks.0.0.", "_blocks.0.").replace("rpn.head.conv.0.0.", "rpn.head.conv."): array
        for key, array in arrays.items()
    }
    for index in range(4):
        for kind in ("weight", "bias"):
            array = old.pop(f"roi_heads.mask_head.{index}.0.{kind}")
            old[f"roi_heads.mask_head.mask_fcn{index + 1}.{kind}"] = array
    assert set(old) != set(arrays)
    assert set(make_source(old).arrays) == set(arrays)


def test_class_names_travel() -> None:
    assert len(COCO) == 80 and [category.id for category in COCO_WITH_GAPS] == list(range(1, 91))
    assert default_categories(90, 0)[11].name == "N/A" and default_categories(90, 0)[12].name == "stop sign"
    assert default_categories(1, 17) == (PERSON,) and len(PERSON.keypoints) == 17
    assert [category.name for category in default_categories(2, 0)] == ["class 1", "class 2"]


def test_checksum(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    check_sha256(tmp_path / "file", "BA7816BF")
    with pytest.raises(DataError, match="has the SHA-256 ba7816bf"):
        check_sha256(tmp_path / "file", "ba7816be")
    with pytest.raises(ConfigError, match="8 to 64 hexadecimal digits"):
        check_sha256(tmp_path / "file", "abc")


@pytest.fixture
def folder(tmp_path: Path, arrays: dict) -> Path:
    """The weights folder that scripts/import_weights.py makes of a published file."""
    file = tmp_path / "published.npz"
    np.savez(file, **arrays)
    command = [sys.executable, "scripts/import_weights.py", file, "--to", tmp_path / "w", "--model.norm-eps", "1e-5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Recognised: torchvision Mask R-CNN, resnet50 FPN, 91 classes with background (npz)" in done.stdout
    assert "307 arrays, every parameter filled; left over, not needed: 53" in done.stdout
    assert f"predict.py --weights {tmp_path / 'w'}" in done.stdout
    return tmp_path / "w"


def test_a_file_becomes_a_weights_folder_in_one_command(folder: Path, arrays: dict) -> None:
    source = make_source(arrays)
    expected = import_variables(source, source.recognised.model)[0]
    jax.tree.map(np.testing.assert_array_equal, load_weights(folder).variables, expected)


@pytest.mark.slow  # a ResNet-50's prediction, which test_golden.py checks; of a folder: test_predictor.py
def test_from_a_file_to_detections_in_two_commands(folder: Path) -> None:
    predictor = Predictor.load(folder, short_side=320, max_side=512, canvases=[(320, 416)])
    (found,) = predictor([load_image()])
    golden = load_golden(NAME)
    iou = pairwise_iou(found.boxes, golden["det_boxes"]) * (found.labels[:, None] == golden["det_labels"][None])
    # All but what the last place of a sum decides: test_golden.py sees to each one.
    assert len(found) == 100 and (iou.max(axis=0) >= 0.99).sum() >= 97


CAFFE2 = {"conv1": "conv1", "branch1": "downsample", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}


def caffe2_backbone(num_stages: int = 4) -> dict[str, np.ndarray]:
    """A ResNet-50 in Caffe2's names, as MSRA's: norms are a scale and a shift."""
    rng = np.random.default_rng(0)
    blobs = {"conv1_w": rng.normal(size=(64, 3, 7, 7)), "fc1000_w": np.zeros((1000, 8)), "fc1000_b": np.zeros(1000)}
    blobs |= {"res_conv1_bn_s": rng.normal(size=64), "res_conv1_bn_b": rng.normal(size=64)}
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)[:num_stages]):
        width = 64 * 2**stage
        for block in range(blocks):
            shapes = {"2a": (width, channels, 1), "2b": (width, width, 3), "2c": (4 * width, width, 1)}
            for branch, (outputs, inputs, side) in ({"1": (4 * width, channels, 1)} if block == 0 else {}).items():
                shapes[branch] = (outputs, inputs, side)
            for branch, (outputs, inputs, side) in shapes.items():
                name = f"res{stage + 2}_{block}_branch{branch}"
                blobs[f"{name}_w"] = rng.normal(size=(outputs, inputs, side, side))
                blobs |= {f"{name}_bn_s": rng.normal(size=outputs), f"{name}_bn_b": rng.normal(size=outputs)}
            channels = 4 * width
    return {name: blob.astype(np.float32) for name, blob in blobs.items()}


def test_msra_backbones_take_up_bgr_and_pixel_scale(tmp_path: Path) -> None:
    blobs = caffe2_backbone(1)
    np.savez(tmp_path / "R-50.npz", **blobs)
    model = ModelConfig(stride_in_1x1=True)
    leaves = read_backbone(tmp_path / "R-50.npz", model)
    kernel = leaves["params/backbone/stem/conv/kernel"]  # sees RGB in units of the deviation
    rgb = np.random.default_rng(1).normal(size=3).astype(np.float32)
    centred_bgr = (rgb * model.pixel_std)[::-1]
    expected = np.einsum("ochw,c->ohw", blobs["conv1_w"], centred_bgr)
    np.testing.assert_allclose(np.einsum("hwco,c->ohw", kernel, rgb), expected, rtol=1e-3, atol=1e-2)
    norm = {key: leaves[f"frozen/backbone/layer1_0/downsample/norm/{key}"] for key in ("scale", "bias", "mean", "var")}
    np.testing.assert_array_equal(norm["scale"], blobs["res2_0_branch1_bn_s"])
    np.testing.assert_allclose(norm["var"] + model.norm_eps, 1, rtol=1e-6)
    assert not norm["mean"].any()


def test_backbones_that_stride_elsewhere_are_refused_with_the_option(tmp_path: Path) -> None:
    np.savez(tmp_path / "R-50.npz", **caffe2_backbone(1))
    with pytest.raises(ConfigError, match=r"strides in its 1x1 convolutions: add --model\.stride-in-1x1"):
        read_backbone(tmp_path / "R-50.npz", ModelConfig())


def test_a_whole_torchvision_backbone_fills_ours(tmp_path: Path, arrays: dict) -> None:
    prefix = "backbone.body."
    theirs = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    classifier = {"fc.weight": np.zeros((9, 9)), "fc.bias": np.zeros(9)}
    np.savez(tmp_path / "resnet50.npz", **theirs, **classifier)
    leaves = read_backbone(tmp_path / "resnet50.npz", ModelConfig())
    source = make_source(arrays)
    filled = named_leaves(import_variables(source, source.recognised.model)[0])
    ours = {name: leaf for name, leaf in filled.items() if "/backbone/" in name}
    assert leaves.keys() == ours.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaves[name], leaf)
    c4 = ModelConfig(neck="c4", box_pool_size=14)
    named = named_leaves(variable_shapes(MaskRCNN(c4)))
    of_backbone = {name for name in named if "/backbone/" in name or "/res5/" in name}
    assert read_backbone(tmp_path / "resnet50.npz", c4).keys() == of_backbone  # res5 belongs to the heads there


def test_a_detector_is_a_start_unless_its_conventions_differ(tmp_path: Path, arrays: dict) -> None:
    np.savez(tmp_path / "detector.npz", **arrays)
    source = make_source(arrays)
    model = dataclasses.replace(source.recognised.model, num_classes=3)
    variables = import_variables(source, source.recognised.model)[0]
    ours, report = initialise(variables, str(tmp_path / "detector.npz"), model)
    assert report.fresh == () and ours.keys() == variables.keys()
    file = dict(arrays)
    file["backbone.body.bn1.running_var"] = np.zeros(64, np.float32)
    np.savez(tmp_path / "half.npz", **file)  # our norms have an eps, whatever the file's have
    initialise(variables, str(tmp_path / "half.npz"), dataclasses.replace(model, norm_eps=1e-5))
    with pytest.raises(DataError, match=r"bn1\.running_var \+ model\.norm_eps 0 is not positive in 64 of 64"):
        initialise(variables, str(tmp_path / "half.npz"), dataclasses.replace(model, norm_eps=0.0))
    with pytest.raises(ConfigError, match=r"model\.stride_in_1x1 is True, not False"):
        initialise(variables, str(tmp_path / "detector.npz"), dataclasses.replace(model, stride_in_1x1=True))


def test_caffe2_names_become_detectron2s() -> None:
    assert imagenet_backbone._renamed("res2_0_branch2a_bn_s", CAFFE2_NAMES) == "res2.0.conv1.norm.weight"
    assert imagenet_backbone._renamed("res_conv1_bn_beta", CAFFE2_NAMES) == "stem.conv1.norm.bias"
    assert imagenet_backbone._renamed("res5_2_branch2c_w", CAFFE2_NAMES) == "res5.2.conv3.weight"
