"""The weights folder: complete, self-describing, verified; and starting from other weights."""

import dataclasses
import json
import os
import random
from pathlib import Path

import jax
import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.errors import DataError, NumericalError, StorageError
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.named_leaves import host_copies, named_leaves
from mrcnn_jax.weights.folder import find_weights, load_weights, save_weights
from mrcnn_jax.weights.imagenet_backbone import read_backbone
from mrcnn_jax.weights.init_from import initialise

MODEL = ModelConfig(backbone="resnet18", num_classes=2, fpn_channels=8, box_head_dim=8, mask_head_dim=8)
TEST = TestConfig(short_side=100, max_side=200, canvases=((96, 128), (128, 96)), mask_threshold=0.4)
CATEGORIES = (Category(3, "person", ("nose", "eye"), ((1, 2),)), Category(7, "Wüste Nr. 1"))


def make_variables(model_config: ModelConfig, seed: int = 0) -> dict:
    """Variables of the model with random values, without compiling an initialiser."""
    rng = np.random.default_rng(seed)
    shapes = variable_shapes(MaskRCNN(model_config))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


@pytest.fixture(scope="module")
def variables() -> dict:
    return make_variables(MODEL)


def save(path: Path, variables: dict, model_config: ModelConfig = MODEL) -> None:
    save_weights(
        path, variables, model_config=model_config, test_config=TEST, categories=CATEGORIES[: model_config.num_classes]
    )


def edit_description(folder: Path, **changes: object) -> None:
    """Writes a changed description whose own checksum is right, as another program would."""
    import hashlib

    file = folder / "description.json"
    description = json.loads(file.read_text()) | changes
    description.pop("sha256")
    description["sha256"] = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(description))


def test_what_was_saved_comes_back(tmp_path, variables):
    save(tmp_path / "weights", variables)
    for path in (tmp_path / "weights", tmp_path):  # the folder itself, or a workdir
        weights = load_weights(path)
        assert (weights.model, weights.test, weights.categories) == (MODEL, TEST, CATEGORIES)
        loaded = host_copies(weights.variables)
        for name, leaf in named_leaves(variables).items():
            np.testing.assert_array_equal(loaded[name], leaf, err_msg=name)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(weights.variables))
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_saving_again_replaces_the_folder(tmp_path, variables):
    save(tmp_path / "weights", variables)
    (tmp_path / ".weights.new").mkdir()  # what a killed process left
    changed = make_variables(MODEL, seed=1)
    save(tmp_path / "weights", changed)
    loaded = named_leaves(load_weights(tmp_path).variables)
    name = "params/box_head/fc1/kernel"
    np.testing.assert_array_equal(loaded[name], named_leaves(changed)[name])
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_failure_while_replacing_keeps_the_old_weights(tmp_path, variables, monkeypatch):
    folder = tmp_path / "weights"
    save(folder, variables)
    rename = os.rename

    def fail_for_new(source: Path, destination: Path) -> None:
        if Path(source).name == ".weights.new":
            raise OSError(5, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail_for_new)
    with pytest.raises(StorageError, match="Input/output error"):
        save(folder, make_variables(MODEL, seed=1))
    name = "params/box_head/fc1/kernel"
    np.testing.assert_array_equal(named_leaves(load_weights(folder).variables)[name], named_leaves(variables)[name])
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_no_damage_anywhere_loads_silently_wrong(tmp_path, variables):
    folder = tmp_path / "weights"
    save(folder, variables)
    rng = random.Random(0)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    refused = 0
    for trial in range(6):
        path = max(files, key=lambda file: file.stat().st_size) if trial % 2 == 0 else rng.choice(files)
        before = path.read_bytes()
        damaged = bytearray(before)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(6)
        path.write_bytes(damaged)
        try:
            loaded = load_weights(folder)
        except DataError:
            refused += 1
        else:
            assert (loaded.model, loaded.test, loaded.categories) == (MODEL, TEST, CATEGORIES)
            assert all(
                (a == b).all() for a, b in zip(*map(jax.tree.leaves, (loaded.variables, variables)), strict=True)
            )
        path.write_bytes(before)
    assert refused >= 3
    load_weights(folder)


def test_everything_that_is_wrong_is_named_at_once(tmp_path, variables):
    folder = tmp_path / "weights"
    save(folder, variables)
    records = json.loads((folder / "description.json").read_text())["leaves"]
    records["params/box_head/fc1/kernel"]["shape"] = [1, 8]
    records["params/extra"] = records.pop("params/box_head/fc2/bias")
    edit_description(folder, leaves=records, categories=[dataclasses.asdict(CATEGORIES[0])])
    with pytest.raises(DataError) as error:
        load_weights(folder)
    for part in (
        "params/box_head/fc2/bias is missing",
        "params/extra is not part of the model",
        "params/box_head/fc1/kernel is float32[1, 8] instead of float32[392, 8]",
        "the model has 2 classes, but the folder has 1 categories",
    ):
        assert part in str(error.value)


def test_future_format_and_unknown_fields_are_refused(tmp_path, variables):
    folder = tmp_path / "weights"
    save(folder, variables)
    edit_description(folder, format_version=2)
    with pytest.raises(DataError, match="format version 2, but this mrcnn_jax reads 1"):
        load_weights(folder)
    edit_description(folder, format_version=1, model=dataclasses.asdict(MODEL) | {"depth": 3})
    with pytest.raises(DataError, match="ModelConfig has no field depth"):
        load_weights(folder)


def test_missing_folder_and_not_json_are_data_errors(tmp_path, variables):
    with pytest.raises(DataError, match="does not exist"):
        find_weights(tmp_path / "nowhere")
    with pytest.raises(DataError, match="contains neither"):
        find_weights(tmp_path)
    (tmp_path / "description.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="cannot be read as JSON"):
        load_weights(tmp_path)


def test_values_that_are_not_finite_are_refused(tmp_path, variables):
    broken = jax.tree.map(np.copy, variables)
    broken["params"]["box_head"]["fc1"]["bias"][0] = np.nan
    save(tmp_path, broken)
    message = r"params/box_head/fc1/bias of the box head is not finite in 1 of 8 values\. The checksums match, so"
    with pytest.raises(NumericalError, match=message):
        load_weights(tmp_path)
    broken["params"]["rpn_head"]["conv"]["kernel"][:] = np.inf
    save(tmp_path, broken)
    with pytest.raises(NumericalError, match=r"not finite in .* values \(1 of 2 such arrays\)"):
        load_weights(tmp_path)


def test_folder_that_cannot_be_written_is_a_storage_error(tmp_path, variables):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        save(tmp_path / "file" / "weights", variables)


def write_backbone(path: Path, model_config: ModelConfig, seed: int = 3) -> dict[str, np.ndarray]:
    """A backbone in torchvision's names with random values; layer4 is missing."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, leaf in named_leaves(make_variables(model_config)).items():
        if name.startswith("params/backbone/") and name.endswith("conv/kernel") and "layer4" not in name:
            module = name.removeprefix("params/backbone/").removesuffix("/conv/kernel")
            module = {"stem": "conv1"}.get(module, module.replace("_", ".").replace("/", "."))
            module = module.replace("downsample", "downsample.0")
            height, width, inputs, outputs = leaf.shape
            arrays[f"{module}.weight"] = rng.normal(size=(outputs, inputs, height, width)).astype(np.float32)
            arrays[f"{module}.bias"] = rng.normal(size=outputs).astype(np.float32)
    np.savez(path, **arrays)
    return arrays


def test_folded_backbone_computes_the_same_in_a_frozen_norm(tmp_path, variables):
    arrays = write_backbone(tmp_path / "backbone.npz", MODEL)
    ours, report = initialise(variables, str(tmp_path / "backbone.npz"), MODEL)
    leaves = named_leaves(ours)
    np.testing.assert_array_equal(
        leaves["params/backbone/layer2_0/conv1/conv/kernel"][2, 0, 5, 7], arrays["layer2.0.conv1.weight"][7, 5, 2, 0]
    )
    norm = {key: leaves[f"frozen/backbone/layer2_0/downsample/norm/{key}"] for key in ("scale", "bias", "mean", "var")}
    features = np.float32(1.7)
    normalised = (features - norm["mean"]) / np.sqrt(norm["var"] + MODEL.norm_eps) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(normalised, features + arrays["layer2.0.downsample.0.bias"], rtol=1e-6)
    assert report.unused == ()
    text = report.describe("backbone.npz")
    assert "re-initialised: backbone/layer4_0, backbone/layer4_1, box_head, fpn, mask_head, rpn_head." in text


def test_other_norms_take_the_kernels_only(tmp_path):
    model = dataclasses.replace(MODEL, norm="group_norm")
    write_backbone(tmp_path / "backbone.npz", model)
    _, report = initialise(make_variables(model), str(tmp_path / "backbone.npz"), model)
    assert all(name.endswith("/conv/kernel") for name in report.taken)
    assert "params/backbone/stem/norm/scale" in report.fresh


def test_weights_of_another_task_keep_what_fits(tmp_path, variables):
    save(tmp_path / "weights", variables)
    model = dataclasses.replace(MODEL, num_classes=1)
    fresh = make_variables(model, seed=1)
    ours, report = initialise(fresh, str(tmp_path), model)
    leaves, given = named_leaves(ours), named_leaves(variables)
    assert set(report.fresh) == {name for name, leaf in named_leaves(fresh).items() if leaf.shape != given[name].shape}
    assert set(report.fresh) == set(report.unused)
    name = "params/box_head/fc1/kernel"
    np.testing.assert_array_equal(leaves[name], given[name])
    name = "params/box_head/logits/kernel"
    np.testing.assert_array_equal(leaves[name], named_leaves(fresh)[name])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"layer9.0.conv1.weight": np.zeros((1, 1, 1, 1))},
            r"layer9\.0\.conv1\.weight .* is not part of a",
        ),
        ({"conv1.weight": np.zeros((1, 1))}, r"conv1\.weight \[1, 1\] is not part"),
        ({"conv1.bias": np.array([np.inf])}, r"conv1\.bias is not finite"),
        ({"conv1.weight": np.array({"a": 1}, object)}, "does not contain plain numbers"),
        ({"conv1.weight": np.zeros((64, 3, 3, 3))}, "no array matches .* in name and shape"),
    ],
)
def test_files_that_are_no_backbone_are_refused(tmp_path, variables, arrays, message):
    np.savez(tmp_path / "backbone.npz", **arrays)
    with pytest.raises(DataError, match=message):
        initialise(variables, str(tmp_path / "backbone.npz"), MODEL)


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "backbone.npz").write_bytes(b"not a zip file")
    with pytest.raises(DataError, match="first bytes do not match any known format"):
        read_backbone(tmp_path / "backbone.npz", MODEL)
