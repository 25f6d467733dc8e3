"""The benchmark of reading: every batch is counted, and what is missing is said."""

import json
import sys

import pytest

from mrcnn_jax.cli import benchmark_data
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.data.shapes import shapes_source
from mrcnn_jax.errors import ConfigError
from tests.paths import ROOT

PRESET = str(ROOT / "configs" / "shapes_tiny.py")


def test_images_are_counted(tmp_path, monkeypatch, capsys):
    prepare(shapes_source(6, seed=0, stream=0), tmp_path, "train")
    options = ["--data.train", f"{tmp_path}:train", "--train.batch-size", "4", "--num-batches", "3"]
    monkeypatch.setattr(sys, "argv", ["benchmark_data.py", PRESET, *options])
    benchmark_data.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"] == 12 and sum(printed["batches_by_canvas"].values()) == 3
    assert printed["images_per_second"] > 0 and printed["cpu_ms_per_image"] > 0


@pytest.mark.parametrize(("options", "message"), [(["--num-batches", "0"], "num-batches"), ([], "--data.train DIR")])
def test_what_is_missing_is_said(options, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark_data.py", PRESET, *options])
    with pytest.raises(ConfigError, match=message):
        benchmark_data.main()
