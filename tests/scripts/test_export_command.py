"""mrcnn export: the options reach the export, and what cannot be exported is refused before weights are read."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mrcnn_jax.cli import command_line, export_model
from mrcnn_jax.config import TestConfig


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of each call of the export, which writes nothing here."""
    found: list[Any] = []

    def export(path: Path, weights: object, test_config: TestConfig, **options: Any) -> dict[str, Any]:
        found.append((path, test_config, options))
        return {"files": {"load.py": {"bytes": 10}}, "needs": ["jax", "numpy"]}

    for name, value in {
        "default_test_config": TestConfig,
        "load_weights": lambda path: SimpleNamespace(),
        "note_source": lambda path: None,
        "export_model": export,
        "export_onnx": export,
        "check_onnx_export": lambda path, test_config: None,
    }.items():
        monkeypatch.setattr(export_model, name, value)
    return found


def run(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["mrcnn export", "--weights", "runs/r50", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        command_line.run(export_model.main)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_options_reach_the_export(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--canvas", "320x416", "--batch-size", 4, "--platforms", "cpu", "tpu", "--masks", "crops")
    assert run("--to", tmp_path / "new", *options, monkeypatch=monkeypatch) == 0
    ((path, test_config, exported),) = calls
    assert path == tmp_path / "new" and test_config.canvases == ((320, 416),)
    assert exported == {"platforms": ("cpu", "tpu"), "masks": "crops", "batch_size": 4}
    assert f"{tmp_path / 'new' / 'load.py'}  0.0 MB" in capsys.readouterr().out


def test_all_canvases_are_exported_by_default(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--to", tmp_path / "new", monkeypatch=monkeypatch) == 0
    ((_, test_config, exported),) = calls
    assert test_config.canvases == TestConfig().canvases
    assert exported == {"platforms": ("cpu", "cuda", "tpu"), "masks": "full", "batch_size": None}


def test_onnx_files_have_neither_platforms_nor_a_batch_size(
    calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--form", "onnx", "--canvas", "320x416", "--batch-size", 1, "--masks", "crops")
    assert run("--to", tmp_path / "new", *options, monkeypatch=monkeypatch) == 0
    ((path, test_config, exported),) = calls
    assert path == tmp_path / "new" and test_config.canvases == ((320, 416),) and exported == {"masks": "crops"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--form", "onnx", "--batch-size", 2), "--batch-size: ONNX files take one image at a time, got 2."),
        (("--form", "onnx", "--platforms", "cpu"), "--platforms: ONNX files are the same for all platforms."),
        (("--canvas", "300x416"), "--canvas: expected sides that are multiples of 32, got 300x416."),
        (("--batch-size", 0), "--batch-size: expected 1 or more, got 0."),
        (("--test.augment-flip",), "Test-time augmentation is not exported"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    calls: list[Any],
    options: tuple[object, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--to", tmp_path / "new", *options, monkeypatch=monkeypatch) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and not calls
