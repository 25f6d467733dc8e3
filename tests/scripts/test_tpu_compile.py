"""Compiling for a TPU slice: what is refused without the compiler, and, where libtpu is installed, all of it."""

import importlib.util
import json
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from mrcnn_jax.cli import abstract_jobs, benchmark, tpu_compile
from mrcnn_jax.config import Config, ModelConfig
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.presets import load_preset
from tests import tiny
from tests.paths import ROOT

PRESET = str(ROOT / "configs" / "shapes_tiny.py")
SLICE = ["--topology", "v5e:2x4"]
TINY = ["--canvas", "64x64", "--images-per-chip", "1", "--model.backbone-width", "8", "--model.fpn-channels", "16"]
CONFIG = Config(model=tiny.MODEL, targets=tiny.TARGETS)
MEMORY = 16 * 2**30
REFUSAL = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (27.97G) exceeds available HBM (15.75G). HLO module: jit_step.\nSee https://openxla.org"
)


def run_main(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tpu_compile.py", *argv])
    return tpu_compile.main()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Name a preset first"),
        ([PRESET], "--topology"),
        ([PRESET, "--topology", "v1:2x2"], "expected one of v4, v5e, v5p, v6e"),
        ([PRESET, *SLICE, "--canvas", "64x65"], "multiples of 32"),
        ([PRESET, *SLICE, "--canvas", "64"], "HEIGHTxWIDTH"),
        ([PRESET, *SLICE, "--images-per-chip", "0"], "expected 1 or more"),
        ([PRESET, *SLICE, "--loop-trips", "0"], "expected 1 or more"),
        ([PRESET, *SLICE, "--task", "export"], "train"),
        ([PRESET, *SLICE], "pip install libtpu"),
    ],
)
def test_bad_options_are_refused(argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        run_main(monkeypatch, *argv)
    assert message in str(caught.value)


@pytest.mark.parametrize("num_keypoints", [0, 3])
def test_batches_have_the_shapes_of_real_ones(num_keypoints: int) -> None:
    config = replace(CONFIG, model=replace(tiny.MODEL, num_keypoints=num_keypoints))
    shapes = abstract_jobs.batch_shapes(config, (64, 96), 3)
    keypoints = shapes.ground_truth.keypoints
    assert (keypoints is None) if num_keypoints == 0 else (keypoints.shape == (3, 100, 3, 3))
    shapes = shapes.replace(ground_truth=shapes.ground_truth.replace(keypoints=None))
    real = benchmark.random_batch(config, (64, 96), 3)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), real
    )


def test_the_step_gives_its_state_away_and_makes_no_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_put", None)
    config = replace(CONFIG, model=replace(tiny.MODEL, neck="dc5", masks=False))
    job = abstract_jobs.training_job(config, make_mesh(), (64, 64), 8)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(job.arguments))
    (state, batch, key), _ = job.function.lower(*job.arguments).args_info
    assert all(leaf.donated for leaf in jax.tree.leaves(state))
    assert not any(leaf.donated for leaf in jax.tree.leaves((batch, key)))


@pytest.mark.parametrize(("resize", "dtype"), [("opencv", jnp.uint8), ("float", jnp.float32)])
def test_prediction_sees_images_as_the_resize_leaves_them(resize: str, dtype: type) -> None:
    config = replace(CONFIG, test=replace(CONFIG.test, resize=resize))
    variables, images, image_hw = abstract_jobs.prediction_job(config, make_mesh(), (64, 96), 16).arguments
    assert (images.shape, images.dtype) == ((16, 64, 96, 3), dtype) and image_hw.shape == (16, 2)
    assert "params" in variables


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (10**9, False)])
def test_memory_is_compared(size: int, fits: bool, tmp_path) -> None:
    job = tpu_compile.Job(jax.jit(lambda x: x + 1), (jax.ShapeDtypeStruct((size,), jnp.float32),))
    arguments = tpu_compile.Arguments(CONFIG, (64, 64), programs=tmp_path / "programs")
    result = tpu_compile.compile_job("predict", job, 2**20, arguments)
    sizes = result["bytes_per_chip"]
    assert result["fits"] == fits and sizes["arguments"] == sizes["outputs"] == 4 * size
    assert 8 * size <= sizes["total"] < 8 * size + 2**20
    assert result["collectives"] == [] and result["flops"] == size
    assert (tmp_path / "programs" / "predict.txt").read_text().startswith("HloModule")


def test_outputs_in_donated_arguments_count_once() -> None:
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    job = tpu_compile.Job(add, (jax.ShapeDtypeStruct((1000, 1000), jnp.float32),))
    sizes = tpu_compile.compile_job("train", job, MEMORY, tpu_compile.Arguments(CONFIG, (64, 64)))["bytes_per_chip"]
    assert sizes["arguments"] == sizes["outputs"] == sizes["aliased"] == 4_000_000
    assert 4_000_000 <= sizes["total"] < 5_000_000


class Refusing:
    """A function that the compiler refuses."""

    def __init__(self, message: str):
        self.message = message

    def lower(self) -> "Refusing":
        return self

    def compile(self, compiler_options: object) -> None:
        raise jax.errors.JaxRuntimeError(self.message)


def test_a_refusal_for_memory_is_a_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(tpu_compile.importlib.metadata, "version", lambda name: "1")
    monkeypatch.setattr(tpu_compile, "make_abstract_slice", lambda topology: (make_mesh(), MEMORY))
    monkeypatch.setitem(tpu_compile.JOBS, "train", lambda *_: tpu_compile.Job(Refusing(REFUSAL), ()))
    assert run_main(monkeypatch, PRESET, *SLICE, *TINY, "--task", "train") == tpu_compile.DOES_NOT_FIT == 4
    report = json.loads(capsys.readouterr().out)
    assert (report["chips"], report["global_batch"], report["canvas"]) == (8, 8, "64x64")
    train = report["tasks"]["train"]
    assert not train["fits"] and train["bytes_wanted"] == int(27.97 * 2**30)
    assert train["refusal"] == REFUSAL.splitlines()[0]


def test_other_refusals_are_errors() -> None:
    job = tpu_compile.Job(Refusing("INTERNAL: a bug"), ())
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        tpu_compile.compile_job("train", job, MEMORY, tpu_compile.Arguments(CONFIG, (64, 64)))


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (REFUSAL, int(27.97 * 2**30)),
        ("RESOURCE_EXHAUSTED: Used 512.5M of 15.75G hbm.", int(512.5 * 2**20)),
        ("RESOURCE_EXHAUSTED: no number", None),
    ],
)
def test_bytes_wanted(refusal: str, expected: int | None) -> None:
    assert tpu_compile.bytes_wanted(refusal) == expected


@pytest.mark.slow
def test_both_tasks_compile_for_eight_chips(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    assert run_main(monkeypatch, PRESET, *SLICE, *TINY, "--top", "5") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["chips"], report["global_batch"]) == (8, 8)
    train, predict = report["tasks"]["train"], report["tasks"]["predict"]
    assert train["fits"] and predict["fits"] and train["bytes_per_chip"]["aliased"] > 0
    shapes = variable_shapes(MaskRCNN(small_model()))["params"]
    parameters = sum(4 * leaf.size for leaf in jax.tree.leaves(shapes))
    assert {group["what"] for group in train["collectives"]} == {"gradients and metrics"}
    assert sum(group["bytes"] for group in train["collectives"]) == pytest.approx(parameters, rel=0.02)
    assert predict["collectives"] == []
    cycles = train["estimated_cycles"]
    expected = {"backbone", "FPN", "RPN head", "NMS", "RoI pooling", "box head", "mask head", "targets", "optimizer"}
    assert expected <= set(cycles["by_part"])
    assert sum(part["forward"] + part["backward"] for part in cycles["by_part"].values()) == cycles["total"] > 0
    assert len(train["most_expensive"]) == 5 and any(loop["trips"] is None for loop in train["loops"]["loops"])


def small_model() -> ModelConfig:
    """The model that the options above ask for."""
    config = load_preset(PRESET).model
    classes = config.num_classes or tpu_compile.NUM_CLASSES
    return replace(config, num_classes=classes, backbone_width=8, fpn_channels=16)


@pytest.mark.slow
def test_shapes_that_no_slice_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed")
    with pytest.raises(ConfigError, match=r"--topology v5e:3x3: .*3x3"):
        run_main(monkeypatch, PRESET, "--topology", "v5e:3x3", *TINY)
