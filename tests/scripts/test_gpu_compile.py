"""Compiling for GPUs: what is refused without the compiler, and, where its plugin is installed, all of it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from mrcnn_jax.cli import gpu_compile
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.profiling.gpus import GPUS
from tests.paths import ROOT

PRESET = str(ROOT / "configs" / "shapes_tiny.py")
TINY = ["--canvas", "64x64", "--images-per-gpu", "1", "--model.backbone-width", "8", "--model.fpn-channels", "16"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Name a preset first"),
        ([PRESET, "--gpu", "h1000"], "h100"),
        ([PRESET, "--gpus", "0"], "expected 1 or more"),
        ([PRESET, "--images-per-gpu", "0"], "expected 1 or more"),
        ([PRESET, "--memory-fraction", "1.5"], "--memory-fraction: expected a value above 0, up to 1, got 1.5"),
        ([PRESET, "--canvas", "64x65"], "multiples of 32"),
        ([PRESET], "pip install --no-deps jax-cuda13-plugin=="),
    ],
)
def test_bad_options_are_refused(argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["gpu_compile.py", *argv])
    with pytest.raises(ConfigError) as caught:
        gpu_compile.main()
    assert message in str(caught.value)


def test_every_gpu_can_be_named() -> None:
    assert set(get_args(get_type_hints(gpu_compile.Arguments)["gpu"])) == set(GPUS)


def compile_small(tmp_path: Path, *options: str) -> tuple[int, dict]:
    """In a process of its own: the tests' flags and their eight devices are for a CPU."""
    command = [sys.executable, str(ROOT / "scripts" / "gpu_compile.py"), PRESET, *TINY, *options]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    return result.returncode, json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(importlib.util.find_spec, gpu_compile.PLUGINS)), reason="no compiler for GPUs")
class TestWithTheCompiler:
    """`pip install` what the script's head names, then `pytest -m slow tests/scripts/test_gpu_compile.py`."""

    def test_a_step_for_two_gpus(self, tmp_path: Path) -> None:
        options = ["--task", "train", "--gpus", "2", "--model.dtype", "bfloat16", "--programs", str(tmp_path)]
        code, report = compile_small(tmp_path, *options)
        train = report["tasks"]["train"]
        assert code == 0 and train["fits"] and report["global_batch"] == 2
        assert train["convolutions_not_bfloat16"] == train["host_callbacks"] == []
        assert {group["what"] for group in train["collectives"]} == {"gradients and metrics"}
        assert {"backbone", "FPN", "mask head", "optimizer"} <= set(train["estimated_microseconds"]["by_part"])
        assert list((tmp_path / "train").glob("*.ptx"))

    def test_a_float32_program_has_float32_convolutions_and_may_not_fit(self, tmp_path: Path) -> None:
        code, report = compile_small(tmp_path, "--task", "predict", "--memory-fraction", "1e-4")
        predict = report["tasks"]["predict"]
        assert code == gpu_compile.DOES_NOT_FIT == 4 and not predict["fits"]
        assert len(predict["convolutions_not_bfloat16"]) >= 20
