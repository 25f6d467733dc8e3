"""A run, its weights and its data that an earlier version wrote, commit 83d2607, still load and go on.

In that version `model.backbone_width` was `model.body_width`, and `model.keypoint_flip` was `data.keypoint_flip` and
`test.keypoint_flip`. The archive holds the workdir after 4 steps, the prepared data, and the metrics of steps 5 and 6
of an uninterrupted run. On the machine that wrote it, both checkpoints of step 6 have the same bits.
"""

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from mrcnn_jax import train
from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.errors import DataError
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.training.averaging import averaged_params
from mrcnn_jax.training.checkpoint import Checkpoints
from mrcnn_jax.training.kept_weights import write_kept_weights
from mrcnn_jax.training.settings import complete_config, run_settings
from mrcnn_jax.training.training_program import make_training_program
from mrcnn_jax.weights.folder import load_weights
from tests.paths import ROOT

CANVASES = ((64, 64),)
TEST = TestConfig(
    short_side=48,
    max_side=64,
    canvases=CANVASES,
    pre_nms_top_n=64,
    post_nms_top_n=32,
    max_detections=10,
    score_threshold=0.0,
)
CONFIG = Config(
    model=ModelConfig(
        backbone="resnet10",
        backbone_width=2,
        num_classes=0,
        norm="sync_bn",
        head_norm="none",
        freeze_at=0,
        neck="dc5",
        anchor_sizes=(8.0, 16.0, 32.0),
        box_head_dim=8,
        mask_head_dim=8,
        mask_head_convs=1,
        num_keypoints=3,
        keypoint_flip=(1, 0, 2),
        keypoint_head_dim=8,
        keypoint_head_convs=1,
    ),
    targets=TargetsConfig(rpn_samples=32, pre_nms_top_n=64, post_nms_top_n=24, roi_samples=32),
    test=TEST,
    data=DataConfig(canvases=CANVASES, short_sides=(48,), max_side=64, max_objects=4, mask_size=28),
    train=TrainConfig(
        num_steps=6,
        batch_size=2,
        learning_rate=1e-3,
        warmup_steps=0,
        log_every=1,
        eval_every=0,
        checkpoint_every=2,
        keep_checkpoints=1,
        ema_decay=0.9,
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(ROOT / "tests" / "golden" / "run_of_renamed_fields.tar.gz") as archive:
        # Python 3.11.0 to 3.11.3 have no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path)
    return tmp_path


def test_old_weights_carry_their_settings_under_the_new_names(folder: Path) -> None:
    weights = load_weights(folder / "run")
    assert (weights.model.backbone_width, weights.model.keypoint_flip) == (2, (1, 0, 2))
    assert weights.test == TEST and [category.name for category in weights.categories] == ["red", "blue"]


def test_an_old_checkpoint_of_old_data_is_restored(folder: Path) -> None:
    data = open_dataset(str(folder / "data:train"))
    assert len(data) == 8 and len(data[0].objects) == 2
    config = complete_config(CONFIG, data.categories, num_devices=1)
    settings = run_settings(config, fingerprint=data.fingerprint, num_records=len(data))
    checkpoints = Checkpoints(folder / "run" / "checkpoints", keep=1)
    program = make_training_program(config, make_mesh(jax.devices()[:1]))
    restored = checkpoints.restore(program.state_shapes, settings)  # compares each leaf with its checksum
    checkpoints.close()
    assert restored is not None and restored.step == 4
    averages, written = averaged_params(restored.state), load_weights(folder / "run").variables["params"]
    jax.tree.map(np.testing.assert_array_equal, averages, dict(written))


def test_an_old_checkpoint_is_written_as_the_weights_of_its_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # the run names its data as data:train
    old = load_weights("run")
    assert old.step is None
    for to in ("of_weights", "of_data"):  # the source of the names of the classes, which the checkpoint lacks
        assert write_kept_weights("run", "last", to).step == 4
        new = load_weights(to)
        assert (new.step, new.model, new.test, new.categories) == (4, old.model, old.test, old.categories)
        jax.tree.map(np.testing.assert_array_equal, dict(new.variables), dict(old.variables))
        shutil.rmtree(folder / "run" / "weights", ignore_errors=True)
    shutil.rmtree(folder / "data")
    with pytest.raises(DataError, match="neither run/weights nor the training data has them: No prepared data at"):
        write_kept_weights("run", "last", "of_nothing")


@pytest.mark.slow  # compiles a training step: pytest -m slow tests/training/test_old_files.py
def test_an_old_run_goes_on_as_it_would_have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    config = replace(CONFIG, data=replace(CONFIG.data, train="data:train"))
    train(config, "run")
    found = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()][4:]
    for ours, theirs in zip(found, json.loads((folder / "expected.json").read_text()), strict=True):
        for name, value in theirs.items():
            # Other processors add in another order; a proposal more or less changes a loss by far more than this.
            np.testing.assert_allclose(ours[name], value, rtol=1e-3, atol=1e-6, err_msg=name)
