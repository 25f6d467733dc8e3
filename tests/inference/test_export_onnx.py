"""Export to ONNX: the loader finds what the Predictor finds; what cannot be exported is refused; nothing is left over.

Without jax2onnx and onnxruntime, the loader runs the parts of the network by JAX. The conversion itself takes minutes:

    pip install -r requirements-onnx.txt pytest beartype, in an environment of its own (docs/export.md)
    pytest -m slow tests/inference/test_export_onnx.py
"""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inference import export_folder, export_onnx, exported_onnx_loader
from mrcnn_jax.inference.network_parts import make_parts
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.inference.rewritten_program import rewrite_function
from mrcnn_jax.weights.folder import Weights
from tests import tiny
from tests.inference.test_export import C4, CATEGORIES, KEYPOINTS, TEST

DC5 = replace(tiny.MODEL, neck="dc5", masks=False, size_divisor=1)
FORMS: dict[str, tuple[ModelConfig, TestConfig]] = {
    "keypoints": (KEYPOINTS, TEST),
    "c4": (C4, replace(TEST, resize="float", size_rounding="floor", mask_paste="integer_box")),
    "dc5": (DC5, TEST),
    "cascade": (replace(tiny.MODEL, box_head_stages=3), TEST),
    "large": (replace(tiny.MODEL, roi_op="warp", mask_activation="softmax"), replace(TEST, canvases=((192, 256),))),
    "finds_nothing": (tiny.MODEL, replace(TEST, score_threshold=0.99999)),
}
MISSING = [name for name in ("jax2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
RUN = """
import importlib.util, sys
for name in ("mrcnn_jax", "cv2", "flax", "jax"):
    sys.modules[name] = None  # its import fails
import numpy as np

folder = sys.argv[1]
sys.path.insert(0, folder)
from load import Detector

with np.load(f"{folder}/../images.npz") as file:
    images = list(file.values())
found = Detector()(images)
np.savez(f"{folder}/../found.npz", **{f"{index}/{key}": x for index, one in enumerate(found) for key, x in one.items()})
"""


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Of three sizes, larger and smaller than the canvas; the last one is black."""
    drawn = np.asarray(tiny.make_batch(1, (150, 210)).images)[0]
    return [drawn, drawn[30:78, 20:100], np.zeros((40, 50, 3), np.uint8)]


def make_weights(model_config: ModelConfig, test_config: TestConfig) -> Weights:
    return Weights(tiny.make_variables(model_config), model_config, test_config, CATEGORIES, step=7)


def check_found(
    found: list[dict], images: list[np.ndarray], model_config: ModelConfig, test_config: TestConfig, *, tolerance: float
) -> int:
    """Compares with the Predictor and returns the number of detections.

    `tolerance` is in pixels: random weights enlarge the difference of float32 sums in another order. Of two detections
    with nearly the same score either may come first or, at a threshold, alone, so two in a hundred may be others.
    """
    predictor = Predictor(tiny.make_variables(model_config), model_config, test_config, CATEGORIES)
    expected: list[ImageDetections] = predictor(images)
    for one, other in zip(found, expected, strict=True):
        assert one["labels"].dtype == np.int64 and one["labels"].shape == other.labels.shape
        assert ("masks" in one) == model_config.masks and ("keypoints" in one) == (model_config.num_keypoints > 0)
        assert (np.diff(one["scores"]) <= 0).all()
        if not len(other):
            continue
        apart = np.abs(one["boxes"][None] - other.boxes[:, None]).max(axis=-1)
        apart[one["labels"][None] != other.labels[:, None]] = np.inf
        nearest = apart.argmin(axis=1)
        is_same = apart[np.arange(len(other)), nearest] <= tolerance
        assert is_same.mean() >= 0.98
        one = {name: values[nearest[is_same]] for name, values in one.items()}
        np.testing.assert_allclose(one["scores"], other.scores[is_same], rtol=0, atol=tolerance / 10)
        assert np.median(np.abs(one["boxes"] - other.boxes[is_same])) < tolerance / 20
        if "masks" in one:
            assert one["masks"].shape[1:] == other.masks.shape[1:] and one["masks"].dtype == bool
            assert (one["masks"] != other.masks[is_same]).sum() <= 1e-3 * other.masks.size
        if "keypoints" in one:
            near = np.abs(one["keypoints"] - other.keypoints[is_same]) < max(5e-3, tolerance)
            assert near.mean() > 0.98  # of two equal peaks, either may win
    return sum(map(len, expected))


@pytest.fixture
def by_jax(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the conversion by an empty file, and onnxruntime by JAX, for a model."""

    def replace_packages(model_config: ModelConfig, test_config: TestConfig) -> None:
        (canvas,) = test_config.canvases
        parts = make_parts(tiny.make_variables(model_config), model_config, test_config, canvas)

        class Session:
            def __init__(self, path: str, options: object, providers: list[str]) -> None:
                self.part = parts[Path(path).name.rpartition("_")[0]]
                self.compute = jax.jit(self.part.compute)

            def get_inputs(self) -> list:
                return [types.SimpleNamespace(name=name) for name in self.part.inputs]

            def get_outputs(self) -> list:
                return [types.SimpleNamespace(name=name) for name in self.part.outputs]

            def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
                for name, spec in self.part.inputs.items():
                    assert inputs[name].shape == spec.shape and inputs[name].dtype == spec.dtype, name
                return [np.asarray(output) for output in self.compute(*(inputs[each] for each in self.part.inputs))]

        stub = types.SimpleNamespace(SessionOptions=types.SimpleNamespace, InferenceSession=Session)
        monkeypatch.setitem(sys.modules, "onnxruntime", stub)
        monkeypatch.setattr(export_onnx.importlib.util, "find_spec", lambda name: True)
        monkeypatch.setattr(export_folder.importlib.metadata, "version", lambda name: "1.0")
        monkeypatch.setattr(export_onnx, "convert_part", lambda part, name, path: path.write_bytes(b""))
        monkeypatch.setattr(export_onnx, "compare_part", lambda *_: 0.0)

    return replace_packages


def test_the_loader_finds_what_the_predictor_finds(
    by_jax: Callable[..., None], images: list[np.ndarray], tmp_path: Path
) -> None:
    model_config, test_config = replace(KEYPOINTS, box_head_stages=2), TEST
    by_jax(model_config, test_config)
    description = export_onnx.export_onnx(tmp_path / "new", make_weights(model_config, test_config), test_config)
    detector = exported_onnx_loader.OnnxDetector(tmp_path / "new")
    assert check_found(detector(images), images, model_config, test_config, tolerance=2e-3) > 200
    assert json.loads((tmp_path / "new" / "description.json").read_text()) == json.loads(json.dumps(description))
    assert {file.name for file in (tmp_path / "new").iterdir()} == {*description["files"], "description.json"}
    assert description["form"] == "onnx" and [stage["part"] for stage in description["stages"]] == [
        "boxes_1",
        "boxes_2",
    ]
    (program,) = description["programs"]
    assert list(program["files"]) == ["network", "boxes_1", "boxes_2", "masks", "heat_maps"]
    assert program["parts"]["masks"]["inputs"]["rois"] == {"shape": [1, 100, 4], "dtype": "float32"}
    with pytest.raises(ValueError, match=r"Expected images\[1\] as uint8 \[H, W, 3\], got float32"):
        detector([images[0], images[0].astype(np.float32)])
    network = detector._parts[64, 96]["network"]
    compute = network.compute
    for name, value in (("features_8", np.inf), ("deltas_64", np.nan)):
        network.compute = functools.partial(spoil, compute, network.part.outputs.index(name), value)
        with pytest.raises(FloatingPointError, match=r"NaN or infinity for images\[0\]"):
            detector(images[:1])


def spoil(compute: Callable[..., tuple], place: int, value: float, *inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs of a part with one value replaced."""
    outputs = [np.asarray(output).copy() for output in compute(*inputs)]
    outputs[place].flat[0] = value
    return outputs


def test_what_cannot_be_exported_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = make_weights(tiny.MODEL, TEST)
    with pytest.raises(ConfigError, match=r"--to: .* exists"):
        export_onnx.export_onnx(tmp_path, weights, TEST)
    with pytest.raises(ConfigError, match="Test-time augmentation is not exported"):
        export_onnx.export_onnx(tmp_path / "new", weights, replace(TEST, augment_flip=True))
    monkeypatch.setattr(export_onnx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--form onnx needs jax2onnx and onnxruntime, .* see docs/export.md"):
        export_onnx.export_onnx(tmp_path / "new", weights, TEST)
    monkeypatch.setattr(export_onnx.importlib.util, "find_spec", lambda name: True)

    def fail(*_: object, **__: object) -> None:
        raise NotImplementedError("No plugin for the primitive sort.\nMore lines.")

    monkeypatch.setitem(sys.modules, "jax2onnx", types.SimpleNamespace(to_onnx=fail))
    message = r"in the part network, jax2onnx cannot convert it \(NotImplementedError: No plugin for the primitive sort"
    with pytest.raises(ConfigError, match=message):
        export_onnx.export_onnx(tmp_path / "new", weights, TEST)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [0.0, 2e-2, np.nan])
def test_a_part_that_computes_something_else_is_refused(
    error: float, by_jax: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare_part = export_onnx.compare_part
    by_jax(tiny.MODEL, TEST)
    spec = {"rois": jax.ShapeDtypeStruct((1, 3, 4), jnp.float32)}
    part = export_onnx.NetworkPart(lambda rois: (rois * 2, rois + 1), spec, ("double", "more"))
    run = lambda names, inputs: [inputs["rois"] * (2 + 2 * error), inputs["rois"] + 1]  # noqa: E731
    session = lambda *_, **__: types.SimpleNamespace(run=run)  # noqa: E731
    monkeypatch.setattr(sys.modules["onnxruntime"], "InferenceSession", session)
    known = {"rois": np.arange(20, dtype=np.float32).reshape(1, 5, 4)}
    if error == 0.0:
        assert compare_part(part, "boxes", Path("boxes.onnx"), known) == 0.0
        assert known["more"].shape == (1, 3, 4)
    else:
        with pytest.raises(ConfigError, match=r"in the part boxes, onnxruntime and JAX differ by (0.02|nan) of the"):
            compare_part(part, "boxes", Path("boxes.onnx"), known)


def test_rewritten_functions_compute_the_same() -> None:
    def function(x: jax.Array, counts: jax.Array) -> tuple[jax.Array, ...]:
        largest = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 2, 1), (1, 2, 1, 1), ((0, 0), (1, 1), (0, 1), (0, 0))
        )
        chosen = jax.lax.platform_dependent(x, cpu=jnp.cos, tpu=jnp.sin, default=jax.nn.relu)
        halves = (counts.astype(jnp.uint32) + 1) // 2
        return largest, jax.vmap(lambda row: row.max())(chosen), halves, 2**counts

    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 3)), jnp.float32)
    counts = jnp.arange(5)
    rewritten = rewrite_function(function, [x, counts])
    largest, chosen, halves, powers = rewritten(x, counts)
    np.testing.assert_array_equal(largest, function(x, counts)[0])
    np.testing.assert_array_equal(chosen, jnp.maximum(x, 0).max(axis=(1, 2, 3)))
    assert halves.tolist() == [0, 1, 1, 2, 2] and halves.dtype == jnp.uint32
    assert powers.tolist() == [1, 2, 4, 8, 16] and powers.dtype == counts.dtype
    names = {equation.primitive.name for equation in jax.make_jaxpr(rewritten)(x, counts).eqns}
    assert not names & {"reduce_window_max", "platform_index", "cond", "jit", "pjit", "custom_jvp_call"}


def test_products_and_broadcast_constants_are_rewritten() -> None:
    def function(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        inside = jnp.broadcast_to(jnp.arange(40)[:, None] < 20, (40, 40))
        return jnp.einsum("bhwc,cd->bhwd", x, kernel), jnp.where(inside, x[0, :40, :40, 0], 7.0)

    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((1, 40, 40, 3), (3, 5))]
    for spoilt in (inputs[0], inputs[0].at[0, 0, 0, 0].set(jnp.nan)):  # the term of the constants is read from there
        rewritten = rewrite_function(function, inputs)
        for found, expected in zip(rewritten(spoilt, inputs[1]), function(spoilt, inputs[1]), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    program = jax.make_jaxpr(rewritten)(*inputs)
    ranks = [each.invars[0].aval.ndim for each in program.eqns if each.primitive.name == "dot_general"]
    assert ranks == [2]
    needs_input = set(program.jaxpr.invars)
    for equation in program.eqns:
        if any(atom in needs_input for atom in equation.invars if not isinstance(atom, jax.extend.core.Literal)):
            needs_input.update(equation.outvars)
        else:  # jax2onnx would store it
            assert all(output.aval.size <= 1024 for output in equation.outvars), equation


@pytest.mark.parametrize("modules", [export_onnx.LOADER_MODULES])
def test_the_loader_is_one_file_in_which_no_name_is_defined_twice(modules: tuple) -> None:
    text = export_folder.loader_source(modules)
    compile(text, "load.py", "exec")
    assert "from mrcnn_jax" not in text and "import jax" not in text
    names = re.findall(r"^(?:def |class )?([A-Za-z_]\w*)(?:\(| = |:$)", text, re.MULTILINE)
    assert len(names) > 30 and sorted(names) == sorted(set(names))
    for module in modules:  # imports of ours have a line each, which loader_source leaves out
        lines = Path(str(module.__file__)).read_text().splitlines()
        assert not any("from mrcnn_jax" in line and line.endswith("(") for line in lines)


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}: see docs/export.md")
@pytest.mark.parametrize("name", FORMS)
def test_onnxruntime_finds_what_the_predictor_finds(name: str, images: list[np.ndarray], tmp_path: Path) -> None:
    """Half a minute each, in a process in which mrcnn_jax, JAX and OpenCV cannot be imported."""
    model_config, test_config = FORMS[name]
    folder = tmp_path / name
    description = export_onnx.export_onnx(folder, make_weights(model_config, test_config), test_config)
    assert max(description["differences"].values()) < 1e-4
    np.savez(tmp_path / "images.npz", *images)
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", RUN, str(folder)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as file:
        found: list[dict] = [{} for _ in images]
        for key, values in file.items():
            index, _, field = key.partition("/")
            found[int(index)][field] = values
    count = check_found(found, images, model_config, test_config, tolerance=0.05)
    assert (count == 0) == (name == "finds_nothing")
