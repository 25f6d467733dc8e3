"""Commands that use weights print which ones, of which step, and what in the workdir is of another step."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrcnn_jax.cli import command_line, evaluate_weights, predict_images
from mrcnn_jax.config import TestConfig
from mrcnn_jax.inference.forms.writing import Written
from mrcnn_jax.inference.image_sources import FoundImages
from mrcnn_jax.json_files import write_json


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Weights of step 40, scores of step 50, and checkpoints of both steps."""
    write_json(tmp_path / "weights" / "description.json", {"step": 40})
    write_json(tmp_path / "evaluation.json", {"step": 50})
    for step in (40, 50):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    return tmp_path


def expected_note(workdir: Path) -> str:
    return (
        f"Weights: {workdir}/weights, step 40. {workdir}/evaluation.json has the scores of step 50, not of these "
        f"weights. Kept checkpoints: steps 40, 50. `mrcnn weights --workdir {workdir} --step 50 --to DIR` writes those "
        "of step 50.\n"
    )


def run(main, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["mrcnn predict", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        command_line.run(main)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_predict_names_the_step(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = SimpleNamespace(variables={}, model=None, categories=())
    for name, value in {
        "default_test_config": TestConfig,
        "find_images": lambda *_: FoundImages([], {}),
        "load_weights": lambda path: weights,
        "Predictor": lambda *_, **__: None,
        "predict_files": lambda *_, **__: Written(),
    }.items():
        monkeypatch.setattr(predict_images, name, value)
    options = ("--weights", workdir, "--output", workdir / "out", "image.png")
    assert run(predict_images.main, *options, monkeypatch=monkeypatch) == 0
    assert expected_note(workdir) in capsys.readouterr().err


def test_evaluate_names_the_step(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = SimpleNamespace(table="", note="", metrics={"skipped": {}})
    monkeypatch.setattr(evaluate_weights, "default_test_config", TestConfig)
    monkeypatch.setattr(evaluate_weights, "join_processes", lambda _: None)
    monkeypatch.setattr(evaluate_weights, "evaluate_weights", lambda *_, **__: evaluation)
    options = ("--weights", workdir, "--data", "data", "--output", workdir / "metrics.json")
    assert run(evaluate_weights.main, *options, monkeypatch=monkeypatch) == 0
    assert expected_note(workdir) in capsys.readouterr().err


def test_a_damaged_folder_is_not_announced(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--weights", workdir, "--output", workdir / "out", "image.png")
    assert run(predict_images.main, *options, monkeypatch=monkeypatch) == 3
    printed = capsys.readouterr().err
    assert "Weights:" not in printed and printed.startswith("error: ")
