"""The command `mrcnn video`: what it prints and writes, with a predictor that reads colours, and what it refuses."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mrcnn_jax import main
from mrcnn_jax.categories import Category
from mrcnn_jax.cli import annotate_video
from mrcnn_jax.cli.class_option import find_categories
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.weights.folder import Weights
from tests.colour_predictor import ColourPredictor, write_frames

COLOURS = np.array([[255, 30, 30], [30, 255, 30]])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    images = np.zeros((12, 48, 64, 3), np.uint8)
    for frame, image in enumerate(images):
        image[5:25, 2 + frame : 22 + frame] = COLOURS[0]
        image[25:45, 40 - frame : 60 - frame] = COLOURS[1]
    return write_frames(tmp_path / "clip.mp4", images, pix_fmt="yuv444p")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the command on weights that are a predictor of colours; returns the exit code."""
    stub = ColourPredictor(COLOURS, (1, 2))
    weights = Weights({}, None, stub.test_config, stub.categories, 0)  # type: ignore[arg-type]
    monkeypatch.setattr(annotate_video, "load_weights", lambda path: weights)
    monkeypatch.setattr(annotate_video, "note_source", lambda path: None)
    monkeypatch.setattr(annotate_video, "default_test_config", lambda: stub.test_config)
    monkeypatch.setattr(annotate_video, "Predictor", lambda *arguments: stub)

    def call(*arguments: str | Path) -> int:
        with pytest.raises(SystemExit) as caught:
            words = ["--weights", "w", "--output", str(tmp_path / "out"), *map(str, arguments)]
            main.run_command("video", words)
        return int(caught.value.code or 0)

    return call


def test_videos_are_written_and_counted(run, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clip, "--track", "--classes", "kind 2") == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path}/out/clip (.mp4, .jsonl, .json): 12 frames, 1 tracks\n"
    assert run(clip, "--no-draw") == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path}/out/clip (.jsonl, .json): 12 frames\n"


def test_files_that_are_no_videos_are_reported_and_the_others_done(
    run, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    assert run(tmp_path / "text.mp4", clip) == 3
    printed = capsys.readouterr()
    assert "failed: " in printed.err and "text.mp4 cannot be opened as a video" in printed.err
    assert printed.err.endswith("error: 1 of 2 videos could not be predicted; the others are done.\n")
    assert (tmp_path / "out" / "clip.mp4").exists() and not (tmp_path / "out" / "text.mp4").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Name at least one video"),
        (("CLIP", "--score", "2"), "--score: expected a number from 0 to 1, got 2.0"),
        (("CLIP", "--track-memory", "-1"), "--track-memory: expected at least 0 frames, got -1"),
        (("CLIP", "--rate", "0"), "--rate: expected more than 0"),
        (("CLIP", "--classes", "kind 7"), "the weights have no class kind 7: did you mean kind 2?"),
        (("CLIP", "other/clip.mkv"), "would have the same outputs"),
        (("out/clip.mp4",), "The output would replace"),
    ],
)
def test_wrong_options_are_refused(
    options: tuple[str, ...], message: str, run, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(clip) if word == "CLIP" else str(tmp_path / word) if "/" in word else word for word in options]
    assert run(*words) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_pyav_one_line_names_the_installation(
    run, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(clip) == 2
    expected = (
        f'PyAV. Install it with: {sys.executable} -m pip install "mrcnn-jax[video]" (in a checkout: ".[video]").\n'
    )
    assert capsys.readouterr().err == f"error: Reading and writing videos needs {expected}"


def test_categories_are_found_by_name() -> None:
    categories = (Category(4, "cat"), Category(9, "dog"))
    assert find_categories("", categories) is None
    assert find_categories("dog, 4", categories) == {4, 9}
    with pytest.raises(ConfigError, match="no class cats: did you mean cat"):
        find_categories("cats", categories)
