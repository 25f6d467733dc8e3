"""The import command: options that decide what is recognised, names of classes, and options that can be pasted."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.import_weights import Arguments, changed_fields, choose_categories, describe_classes, peek
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.config.option_text import as_options
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.weights.coco_categories import COCO


def test_options_can_be_pasted() -> None:
    changed = ModelConfig(
        backbone="resnet101",
        stride_in_1x1=True,
        masks=False,
        pixel_std=(1.0, 1.0, 1.0),
        norm_eps=1e-3,
        anchor_sizes=(16.0, 32.5, 64.0, 128.0, 256.0),
        level_eps_in_log=2.5e-7,
        keypoint_flip=(0, 2, 1),
    )
    names = changed_fields(ModelConfig(), changed)
    text = as_options("model", changed, names)
    assert "--model.stride-in-1x1" in text.split() and "--model.no-masks" in text.split()
    assert "--model.pixel-std 1,1,1" in text
    argv = ["file", "--to", "folder", *text.split()]
    assert command_line.parse(Arguments(), "Imports.", argv).model == changed
    test = TestConfig(short_side=480, canvases=((480, 800), (800, 480)))
    text = as_options("test", test, ["short_side", "canvases"])
    assert text == "--test.short-side 480 --test.canvases 480x800,800x480"


def arguments_for(num_classes: int, categories: Path | None = None) -> Arguments:
    return replace(Arguments(), categories=categories, model=ModelConfig(num_classes=num_classes))


def write_categories(folder: Path, *pairs: tuple[int, str]) -> Path:
    path = folder / "annotations.json"
    listed = [{"id": id_, "name": name} for id_, name in pairs]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": listed}))
    return path


def test_names_of_the_classes_and_their_origin(tmp_path: Path) -> None:
    found = choose_categories(arguments_for(80), ())
    assert found == COCO
    assert describe_classes(arguments_for(80), (), found) == "Classes: 80, COCO's (person, bicycle, car, ...)"
    own = choose_categories(arguments_for(2), ("cat", "dog"))
    assert own == (Category(1, "cat"), Category(2, "dog"))
    assert describe_classes(arguments_for(2), ("cat", "dog"), own) == "Classes: 2, of the checkpoint (cat, dog)"
    numbered = choose_categories(arguments_for(2), ())
    assert "numbered, since the checkpoint has no names: set --categories" in describe_classes(
        arguments_for(2), (), numbered
    )
    coco = choose_categories(arguments_for(80), tuple(category.name for category in COCO))
    assert coco == COCO  # with COCO's ids


def test_labels_that_are_ids_leave_outputs_without_a_class(tmp_path: Path) -> None:
    arguments = arguments_for(5, write_categories(tmp_path, (2, "cat"), (5, "dog")))
    found = choose_categories(arguments, ())
    assert [category.name for category in found] == ["N/A", "cat", "N/A", "N/A", "dog"]
    assert describe_classes(arguments, (), found).endswith("; 3 outputs have none (N/A)")
    with pytest.raises(ConfigError, match=r"has 2 categories, but the checkpoint has 4 classes.*named N/A for outputs"):
        choose_categories(replace(arguments, model=ModelConfig(num_classes=4)), ())


def test_options_are_read_before_the_file_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.npz"
    np.savez(path, w=np.zeros(3))
    for words, error, message in (
        (["--take", "ema"], DataError, "--take ema: it has only weights of the file"),
        (["--take=both"], ConfigError, "invalid choice: 'both'"),
        (["--input-format", "gbr"], ConfigError, "invalid choice: 'gbr'"),
        (["--source", "paddle"], ConfigError, "invalid choice: 'paddle'"),
    ):
        monkeypatch.setattr(sys, "argv", ["import", str(path), "--to", "x", *words])
        with pytest.raises(error, match=message):
            peek()
