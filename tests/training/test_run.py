"""The real thing, small: a run on generated images with the real model, data and evaluation."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.data.shapes import shapes_source
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.training import loop
from mrcnn_jax.weights.folder import load_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools with NumPy 2
]

CANVASES = ((64, 64),)
CONFIG = Config(
    model=ModelConfig(
        backbone="resnet18", num_classes=0, norm="group_norm", fpn_channels=8, box_head_dim=8, mask_head_dim=8
    ),
    targets=TargetsConfig(rpn_samples=16, pre_nms_top_n=16, post_nms_top_n=8, roi_samples=8),
    test=TestConfig(
        short_side=64, max_side=64, canvases=CANVASES, pre_nms_top_n=16, post_nms_top_n=8, max_detections=4
    ),
    data=DataConfig(canvases=CANVASES, short_sides=(48, 64), max_side=64, max_objects=8, mask_size=28),
    train=TrainConfig(
        num_steps=4, batch_size=2, learning_rate=0.001, log_every=1, eval_every=0, checkpoint_every=3, num_pictures=2
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    for stream, (split, count) in enumerate((("train", 6), ("val", 2))):
        prepare(shapes_source(count, seed=0, stream=stream), folder, split)
    return folder


@pytest.fixture
def config(data: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(loop, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
    return replace(CONFIG, data=replace(CONFIG.data, train=f"{data}:train", val=f"{data}:val"))


def losses(workdir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name.startswith(("step", "loss/"))} for line in lines]


def leaf_records(workdir: Path, step: int) -> dict:
    return json.loads((workdir / "checkpoints" / str(step) / "description" / "metadata").read_text())["leaves"]


def test_resumed_run_equals_uninterrupted_run_bit_for_bit(config, tmp_path):
    loop.train(config, tmp_path / "whole")
    loop.train(replace(config, train=replace(config.train, num_steps=2)), tmp_path / "parts")
    loop.train(config, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert leaf_records(tmp_path / "parts", 4) == leaf_records(tmp_path / "whole", 4)
    weights = load_weights(tmp_path / "whole")
    assert [category.name for category in weights.categories][:2] == ["disc", "ring"]
    assert len(list((tmp_path / "whole" / "pictures").iterdir())) == 2
    assert np.isfinite([line["loss/total"] for line in losses(tmp_path / "whole")]).all()
