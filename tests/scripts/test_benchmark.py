"""The benchmark: its synthetic images are what the data pipeline would give, and it prints valid JSON."""

import dataclasses
import json
import re
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mrcnn_jax.cli import benchmark
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.named_leaves import named_leaves, replace_leaves
from mrcnn_jax.presets import load_preset
from tests.paths import ROOT

PRESET = str(ROOT / "configs" / "shapes_tiny.py")
TINY = ["--canvas", "64x96", "--model.backbone-width", "8", "--model.fpn-channels", "8", "--model.mask-head-dim", "8"]


def test_random_batch_is_a_valid_batch() -> None:
    config = load_preset(ROOT / "configs" / "mask_rcnn_r50_fpn_1x.py")
    batch = benchmark.random_batch(config, (64, 96), 3)
    truth = batch.ground_truth
    assert batch.images.shape == (3, 64, 96, 3) and batch.images.dtype == np.uint8
    assert batch.image_hw.tolist() == [[64, 96]] * 3 and batch.valid.all()
    assert truth.boxes.shape == (3, 100, 4) and truth.boxes.dtype == np.float32
    assert truth.masks.shape == (3, 100, 112, 112) and truth.masks.dtype == np.uint8
    assert (truth.valid.sum(1) == benchmark.NUM_OBJECTS).all()
    valid = truth.valid
    x0, y0, x1, y1 = truth.boxes[valid].T
    assert ((x0 >= 0) & (x1 - x0 > 1) & (x1 <= 96) & (y0 >= 0) & (y1 - y0 > 1) & (y1 <= 64)).all()
    assert ((truth.labels[valid] >= 1) & (truth.labels[valid] <= 80)).all()
    assert (truth.masks[valid].mean((1, 2)) > 0.7).all()
    assert not (truth.boxes[~valid].any() or truth.labels[~valid].any() or truth.masks[~valid].any())


def test_inference_is_timed_with_all_slots_filled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--batch-size", "2", "--iterations", "2", "--profile", "1", "--test.max-detections", "10", *TINY]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "infer", PRESET, *options])
    draw = benchmark.init_variables

    def draw_as_if_deep(*arguments: object) -> dict:
        """The features of an untrained deep network are large, so that its deltas would leave no box in the image."""
        variables = draw(*arguments)
        leaves = named_leaves(variables)
        large = {name: leaf * (1e6 if "/deltas/" in name else 1) for name, leaf in leaves.items()}
        return replace_leaves(variables, large)

    monkeypatch.setattr(benchmark, "init_variables", draw_as_if_deep)
    benchmark.main()
    report = json.loads(capsys.readouterr().out)
    assert (report["task"], report["canvas"], report["batch_size"]) == ("infer", "64x96", 2)
    assert 0 < report["min_ms"] <= report["median_ms"] and report["iterations"] == 2
    assert report["images_per_second"] == pytest.approx(2000 / report["median_ms"], rel=1e-2)
    assert report["compile_seconds"] > 0 and report["peak_rss_mib"] > 100
    assert report["detections_per_image"] == 10 and report["flops"] > 1e7 and report["share_of_peak_flops"] is None
    assert report["device"]["platform"] == "cpu" and report["versions"]["jax"]
    parts = report["ms_by_part"]
    assert {"backbone", "FPN", "RPN head", "NMS", "RoI pooling", "box head", "mask head"} <= parts.keys()
    assert "unknown" not in parts and all(part["forward"] > 0 for part in parts.values())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"backbone": {"forward": 9.12345, "backward": 0.0}, "unknown": {"forward": 0.3, "backward": 0.0}}, ""),
        (
            {"backbone": {"forward": 1.0, "backward": 2.0}, "unknown": {"forward": 1.0, "backward": 0.0}},
            "25% of the profiled",
        ),
        ({}, "no event of this program"),
    ],
)
def test_what_a_profile_does_not_say_is_said(
    parts: dict, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "profile_calls", lambda *_: parts)
    found = benchmark.profile_parts(benchmark.TimedProgram(SimpleNamespace(as_text=str), 0.0, None, dict, dict), 1)
    assert found == {part: {way: round(value, 3) for way, value in ways.items()} for part, ways in parts.items()}
    error = capsys.readouterr().err
    assert said in error and bool(error) == bool(said)


def test_the_step_that_is_timed_has_the_runs_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(benchmark, "compile_function", lambda *job: seen.append(job) or (None, 0.0, None))
    options = ["--train.gradient-dtype", "bfloat16", "--train.shard-optimizer", "--model.neck", "dc5"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "train", PRESET, "--batch-size", "8", *options, *TINY])
    _, _, arguments = benchmark.read_arguments()
    config = dataclasses.replace(
        arguments.config, model=dataclasses.replace(arguments.config.model, num_classes=benchmark.NUM_CLASSES)
    )
    benchmark.prepare_training(config, arguments.canvas, arguments.batch_size)
    ((step, *inputs),) = seen
    largest = max(jax.tree.leaves(inputs[0].opt_state), key=lambda leaf: leaf.size)
    assert largest.addressable_shards[0].data.size * 8 == largest.size
    sums = re.findall(
        r"stablehlo.all_reduce.*?\) -> tensor<(?:[0-9]+x)*(\w+)>", step.lower(*inputs).as_text(), re.DOTALL
    )
    assert sums.count("bf16") > 10


@pytest.mark.slow
def test_training_is_timed_on_all_devices(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--batch-size", "8", "--iterations", "2", "--profile", "1", *TINY]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "train", PRESET, *options])
    benchmark.main()
    report = json.loads(capsys.readouterr().out)
    assert report["task"] == "train" and report["device"]["count"] == 8
    assert np.isfinite(report["loss"]) and 0 < report["min_ms"] <= report["median_ms"]
    assert report["ms_by_part"]["backbone"]["backward"] > 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fly"], "infer|train"),
        (["infer", PRESET, "--canvas", "64x65"], "multiples of 32"),
        (["infer", PRESET, "--canvas", "64"], "HEIGHTxWIDTH"),
        (["infer", PRESET, "--iterations", "0"], "expected 1 or more"),
        (["infer", PRESET, "--profile", "-1"], "expected 0 or more"),
        (["infer", PRESET, "more"], "infer|train"),
    ],
)
def test_bad_options_are_refused(argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *argv])
    with pytest.raises(ConfigError) as caught:
        benchmark.main()
    assert message in str(caught.value)


def test_share_of_a_gpus_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    assert benchmark.share_of_peak(1e12, 1.0, "bfloat16") is None  # a CPU's is not known
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")])
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert benchmark.share_of_peak(99e12, 0.1, "bfloat16") == 0.5
    assert benchmark.share_of_peak(99e12, 0.2, "float32") == 0.5
    assert benchmark.share_of_peak(None, 0.1, "bfloat16") is None
