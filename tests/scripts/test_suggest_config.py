"""The command: splits are found, given options win, the file is a preset, and nothing is overwritten."""

import os
import sys
from pathlib import Path

import pytest

from mrcnn_jax.cli import suggest_config
from mrcnn_jax.cli.suggest_config import is_given
from mrcnn_jax.config import Config
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.data.shapes import shapes_source
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.presets import load_preset
from mrcnn_jax.recipe.data_splits import find_splits


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    for stream, split in enumerate(("train", "val")):
        prepare(shapes_source(6, seed=0, stream=stream), folder, split)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", ["suggest", *argv])
    suggest_config.main()


def test_the_preset_is_written_with_what_is_given(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "configs" / "mine.py"
    options = ["--data", str(shapes), "--to", str(file), "--gflops", "20", "--minutes", "10"]
    run(monkeypatch, *options, "--train.seed", "7", "--model.no-masks", "--data.max-objects=9")
    config = load_preset(file)
    assert (config.train.seed, config.model.masks, config.data.max_objects) == (7, False, 9)
    assert (config.data.train, config.data.val) == (f"{shapes}:train", f"{shapes}:val")
    assert config.model.num_classes == 5 and config.model.norm == "group_norm"
    printed = capsys.readouterr()
    assert printed.out.startswith(f"Wrote {file}. Next: ") and f"train {file} --workdir runs/mine" in printed.out
    assert "Anchors: " in printed.err and "steps of" in printed.err
    assert "--train.seed 7" in file.read_text().replace("\n", " ")
    with pytest.raises(ConfigError, match=r"exists\. Pass --overwrite"):
        run(monkeypatch, *options)
    run(monkeypatch, *options, "--overwrite")
    assert load_preset(file).train.seed == Config().train.seed


def test_what_cannot_be_used_is_refused(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = ["--to", str(tmp_path / "mine.py")]
    for argv, error, message in (
        ([*to], ConfigError, "No data is named"),
        (["--data", str(shapes), "--to", str(tmp_path / "mine.txt")], ConfigError, r"ends in \.py"),
        (["--data", str(shapes), *to, "--minutes", "0"], ConfigError, "positive"),
        (["--data", str(tmp_path / "nothing"), *to], DataError, "No prepared data"),
        (["--data", str(shapes), *to, "--gflops", "9", "--train.warmup-steps", "9999999"], ConfigError, "warmup_steps"),
    ):
        with pytest.raises(error, match=message):
            run(monkeypatch, *argv)
    assert os.listdir(tmp_path) == []


def test_splits_of_a_folder(tmp_path: Path) -> None:
    def add(*names: str) -> str:
        for name in names:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "metadata.json").touch()
        return str(tmp_path)

    folder = add("all")
    assert find_splits(folder) == (f"{folder}:all", "")
    add("part")
    with pytest.raises(ConfigError, match="all, part, none of which is named train"):
        find_splits(folder)
    add("train", "valid")
    assert find_splits(folder) == (f"{folder}:train", f"{folder}:valid")
    assert find_splits(f"{folder}/train") == (f"{folder}/train", "")
    assert find_splits(f"{folder}:part") == (f"{folder}:part", "")


def test_options_that_set_a_field() -> None:
    assert is_given("train.batch_size", ["--train.batch-size", "4"])
    assert is_given("train.batch_size", ["--train.batch_size=4"])
    assert is_given("model.masks", ["--model.no-masks"])
    assert not is_given("train.batch_size", ["--to", "train.batch_size", "--train.batch-sizes", "--data.batch-size"])
