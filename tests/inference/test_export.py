"""Export: the loader, in a process without this package, finds what the Predictor finds; refusals; the description."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.export
import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.errors import ConfigError, StorageError
from mrcnn_jax.inference import export, export_folder, exported_inputs, exported_loader, paste_masks
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.weights.folder import Weights
from tests import tiny
from tests.paths import ROOT

CATEGORIES = (Category(2, "circle"), Category(5, "square"), Category(9, "star"))
TEST = TestConfig(
    short_side=64,
    max_side=96,
    canvases=((64, 96),),
    pre_nms_top_n=64,
    post_nms_top_n=64,
    max_detections=100,
    nms_threshold=0.9,
    batch_size=3,
)
KEYPOINTS = replace(tiny.MODEL, num_keypoints=2, keypoint_head_dim=8, keypoint_head_convs=1)
C4 = replace(tiny.MODEL, neck="c4", mask_head_convs=0)
NO_MASKS = replace(tiny.MODEL, neck="dc5", masks=False)
FORMS: dict[str, tuple[ModelConfig, TestConfig, int | None]] = {
    "fpn": (KEYPOINTS, TEST, None),
    "c4": (C4, replace(TEST, resize="float", size_rounding="floor", mask_paste="integer_box"), 3),
    "dc5": (NO_MASKS, replace(TEST, score_threshold=0.99999), 3),  # finds nothing
}
RUN = """
import importlib.util, sys
sys.modules["mrcnn_jax"] = sys.modules["cv2"] = sys.modules["flax"] = None  # their import fails
import numpy as np

folder, names = sys.argv[1], sys.argv[2:]
with np.load(f"{folder}/images.npz") as file:
    images = list(file.values())
results = {}
for name in names:
    if name == names[0]:
        documented = {"images": images}
        exec(open(f"{folder}/documented.py").read(), documented)
        detector = documented["detector"]
    else:
        spec = importlib.util.spec_from_file_location("load", f"{folder}/{name}/load.py")
        load = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(load)
        detector = load.Detector()
    for index, found in enumerate(detector(images)):
        results |= {f"{name}/{index}/{key}": value for key, value in found.items()}
try:
    detector([images[0][..., 0]])
except ValueError as error:
    results["error"] = str(error)
np.savez(f"{folder}/results.npz", **results)
"""


def make_weights(model_config: ModelConfig, test_config: TestConfig) -> Weights:
    return Weights(tiny.make_variables(model_config), model_config, test_config, CATEGORIES, step=7)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Of three sizes, larger and smaller than the canvas; the last one is black."""
    drawn = np.asarray(tiny.make_batch(1, (150, 210)).images)[0]
    return [drawn, drawn[30:78, 20:100], np.zeros((40, 50, 3), np.uint8)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, images: list[np.ndarray]) -> tuple[Path, dict[str, np.ndarray]]:
    """The folder that contains an export of each form, and what the loaders found in a process of their own."""
    folder = tmp_path_factory.mktemp("exported")
    np.savez(folder / "images.npz", *images)
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "export.md").read_text(), re.M | re.S)
    (folder / "documented.py").write_text(block.replace("exported/r50", str(folder / next(iter(FORMS)))))
    for name, (model_config, test_config, batch_size) in FORMS.items():
        platforms = ("cpu",) if name != "fpn" else ("cpu", "cuda", "tpu")
        weights = make_weights(model_config, test_config)
        export.export_model(folder / name, weights, test_config, platforms=platforms, batch_size=batch_size)
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", RUN, str(folder), *FORMS], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "results.npz") as file:
        return folder, dict(file)


def predict(name: str, images: list[np.ndarray]) -> list[ImageDetections]:
    model_config, test_config, _ = FORMS[name]
    weights = make_weights(model_config, test_config)
    return Predictor(weights.variables, model_config, test_config, CATEGORIES)(images)


@pytest.mark.parametrize("name", FORMS)
def test_the_loader_finds_what_the_predictor_finds(
    name: str, exported: tuple[Path, dict[str, np.ndarray]], images: list[np.ndarray]
) -> None:
    # A program for any number of images is fused differently: its float32 sums are rounded in another order, and
    # random weights enlarge that. With a fixed number the two programs are the same.
    exact = FORMS[name][2] is not None
    for index, expected in enumerate(predict(name, images)):
        found = {
            key.rpartition("/")[2]: value for key, value in exported[1].items() if key.startswith(f"{name}/{index}/")
        }
        assert len(expected) == {"fpn": 100, "dc5": 0}.get(name, len(expected))
        assert found["labels"].dtype == np.int64 and found["labels"].tolist() == expected.labels.tolist()
        for key, tolerance in (("boxes", 2e-3), ("scores", 2e-4)):
            np.testing.assert_allclose(found[key], getattr(expected, key), rtol=0, atol=0 if exact else tolerance)
        assert ("masks" in found) == FORMS[name][0].masks and ("keypoints" in found) == (name == "fpn")
        if "masks" in found:
            assert found["masks"].shape == expected.masks.shape and found["masks"].dtype == bool
            assert (found["masks"] != expected.masks).sum() <= (0 if exact else 1e-3 * expected.masks.size)
        if "keypoints" in found:
            near = np.abs(found["keypoints"] - expected.keypoints) < 5e-3
            assert near.mean() > 0.98  # of two equal peaks, either may win


def test_the_loader_refuses_what_is_no_image(exported: tuple[Path, dict[str, np.ndarray]]) -> None:
    assert str(exported[1]["error"]) == "Expected images[0] as uint8 [H, W, 3], got uint8 (150, 210)."


def test_the_description_is_complete(exported: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder = exported[0] / "fpn"
    description = json.loads((folder / "description.json").read_text())
    assert {file.name for file in folder.iterdir()} == {*description["files"], "description.json"}
    assert all((folder / name).stat().st_size == file["bytes"] for name, file in description["files"].items())
    assert description["inputs"]["images"]["shape"] == ["b", 64, 96, 3]
    assert description["inputs"]["images"]["dtype"] == "uint8"
    assert description["inputs"]["image_hw"]["shape"] == ["b", 2]
    shapes = {name: each["shape"] for name, each in description["outputs"].items()}
    assert shapes == {
        "valid": ["b", 100],
        "boxes": ["b", 100, 4],
        "scores": ["b", 100],
        "labels": ["b", 100],
        "masks": ["b", 100, 28, 28],
        "heat_maps": ["b", 100, 2, 56, 56],
        "not_finite": ["b"],
    }
    assert [category["id"] for category in description["categories"]] == [2, 5, 9]
    assert description["normalisation"]["mean"] == [123.675, 116.28, 103.53]
    assert description["test"]["score_threshold"] == 0.05 and description["step"] == 7
    assert description["versions"]["jax"] == jax.__version__ and "6 months" in description["loadable"]
    with np.load(folder / "weights.npz") as arrays:
        assert arrays.files == description["weights"]
    fixed = json.loads((exported[0] / "c4" / "description.json").read_text())
    assert fixed["batch_size"] == 3 and fixed["inputs"]["images"] | {"content": ""} == {
        "shape": [3, 64, 96, 3],
        "dtype": "float32",
        "content": "",
    }


def test_each_platform_has_its_own_program(exported: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder = exported[0] / "fpn"
    programs = {}
    for platform in ("cpu", "cuda", "tpu"):
        loaded = jax.export.deserialize(bytearray((folder / f"{platform}_64x96.jaxexport").read_bytes()))
        assert loaded.platforms == (platform,)
        description = json.loads((folder / "description.json").read_text())
        assert loaded.calling_convention_version == description["calling_convention_version"]
        programs[platform] = loaded.mlir_module()
    # A TPU repeats cells by products with matrices, a CPU pools RoIs in loops.
    products = {platform: text.count("stablehlo.dot_general") for platform, text in programs.items()}
    loops = {platform: text.count("stablehlo.while") for platform, text in programs.items()}
    assert products["tpu"] > products["cpu"] and products["tpu"] > products["cuda"]
    assert loops["cpu"] > loops["cuda"] and loops["cpu"] > loops["tpu"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"platforms": ("cpu", "xpu")}, "--platforms: expected some of cpu, cuda, tpu, each once, got cpu, xpu."),
        ({"platforms": ()}, "got none"),
        ({"platforms": ("cpu", "cpu")}, "each once"),
        ({"test_config": replace(TEST, augment_flip=True)}, "Test-time augmentation is not exported"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    options = {"test_config": TEST, "platforms": ("cpu",)} | change
    with pytest.raises(ConfigError, match=message):
        export.export_model(tmp_path / "new", make_weights(tiny.MODEL, TEST), **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept_and_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = make_weights(tiny.MODEL, TEST)
    with pytest.raises(ConfigError, match=r"--to: .* exists. Choose another folder"):
        export.export_model(tmp_path, weights, TEST)
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="new could not be written: No space left on device"):
        export.export_model(tmp_path / "new", weights, TEST)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install flatbuffers"):
        export.export_model(tmp_path / "new", weights, TEST)


def test_the_loader_is_one_file_without_this_package() -> None:
    text = export_folder.loader_source(export.LOADER_MODULES)
    compile(text, "load.py", "exec")
    assert "import mrcnn_jax" not in text and "from mrcnn_jax" not in text
    for module in export.LOADER_MODULES:  # imports of ours have a line each, which loader_source leaves out
        lines = Path(str(module.__file__)).read_text().splitlines()
        assert not any("from mrcnn_jax" in line and line.endswith("(") for line in lines)
    assert export.LOADER_MODULES == (exported_loader, exported_inputs, export.exported_outputs, paste_masks)
