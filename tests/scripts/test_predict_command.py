"""`mrcnn predict` with a stand-in for the network: options, what is printed, exit codes, pictures and progress."""

import json
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from mrcnn_jax.cli import command_line, predict_images
from mrcnn_jax.cli import progress as progress_module
from mrcnn_jax.cli.progress import describe_pace, show_progress
from mrcnn_jax.config import TestConfig
from mrcnn_jax.json_files import write_json
from tests.prediction_stub import CATEGORIES, PredictorStub, write_image


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with weights, three images and an archive."""
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "weights" / "description.json", {"step": 40})
    for number in range(3):
        write_image(tmp_path / "in" / f"{number}.png", value=100 + 50 * number)
    with zipfile.ZipFile("in.zip", "w") as archive:
        archive.write("in/0.png", "0.png")
    weights = SimpleNamespace(variables={}, model=None, categories=CATEGORIES)
    monkeypatch.setattr(predict_images, "default_test_config", TestConfig)
    monkeypatch.setattr(predict_images, "load_weights", lambda path: weights)
    monkeypatch.setattr(predict_images, "Predictor", lambda *_, **__: PredictorStub())
    return tmp_path


def predict(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    words = ["mrcnn predict", "--weights", "weights", "--output", "out", *arguments]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as caught:
        command_line.run(predict_images.main)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_forms_and_kinds_of_pictures(folder, monkeypatch, capsys):
    options = ("--format", "yolo,csv", "--pictures", "masks", "--classes", "light,7", "--max-detections", "1")
    assert predict(*options, "in", "in.zip", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == "Wrote out/yolo/, out/predictions.csv, out/pictures/\n"
    picture = cv2.imread("out/pictures/2.png")
    assert picture.shape == (10, 20, 3) and picture.any(axis=2).all()
    assert not cv2.imread("out/pictures/0.png").any(), "its score is below 0.5"
    assert Path("out/pictures/in.zip/0.png").exists()
    assert predict("--pictures", "crops", "--overwrite", "in", monkeypatch=monkeypatch) == 0
    assert [path.name for path in Path("out/pictures/2").iterdir()] == ["001-light.png"]
    lines = list(map(json.loads, Path("out/predictions.jsonl").read_text().splitlines()))
    assert lines[3]["picture"] == "pictures/2"


def test_drawn_copies_or_none(folder, monkeypatch, capsys):
    assert predict("in", monkeypatch=monkeypatch) == 0
    assert cv2.imread("out/pictures/2.jpg").shape[2] == 3
    assert predict("--no-pictures", "in", monkeypatch=monkeypatch) == 2
    assert "other settings (pictures, score of pictures)" in capsys.readouterr().err
    assert predict("--no-pictures", "--output", "out2", "in", monkeypatch=monkeypatch) == 0
    assert not Path("out2/pictures").exists()


def test_parts_and_the_end_of_the_run(folder, monkeypatch, capsys):
    assert predict("--part", "2/2", "in", monkeypatch=monkeypatch) == 0
    assert "Wrote out/predictions-2-of-2.jsonl. The last of the 2 parts" in capsys.readouterr().out
    Path("in/0.png").write_bytes(b"12345678")
    assert predict("--part", "1/2", "in", monkeypatch=monkeypatch) == 2
    assert "other settings (inputs)" in capsys.readouterr().err


def test_many_errors_are_counted(folder, monkeypatch, capsys):
    for number in range(25):
        Path(f"in/bad{number}.png").write_bytes(b"")
    assert predict("in", monkeypatch=monkeypatch) == 3
    printed = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("failed: in/bad") for line in printed) == 20
    assert printed[-2:] == [
        "failed: 5 more, see out/predictions.jsonl",
        "error: 25 of 28 files could not be predicted; the others are done.",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "coco,yolov8"), "Unknown form yolov8"),
        (("--part", "3/2"), "--part is I/N"),
        (("--classes", "light,cat"), "the weights have no class cat: did you mean dark?"),
        (("--max-detections", "0"), "--max-detections is at least 1"),
        (("--simplify", "-1"), "--simplify is a distance"),
    ],
)
def test_wrong_options_are_refused(folder, monkeypatch, capsys, options, message):
    assert predict(*options, "in", monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err and not Path("out").exists()


def test_progress_states_the_pace_of_this_process(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 2.0, 3.0, 100.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    with show_progress("predicted") as progress:
        for done in (500, 510, 600, 620, 630):
            progress(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "predicted 500/1000",
        "predicted 600/1000, 50 per s, 8 s left",
        "predicted 630/1000, 0.306 per s, 20 min left",
    ]
    assert describe_pace(0, 1.0, 5) == "" and describe_pace(5, 2.0, 0) == ", 2.5 per s"
