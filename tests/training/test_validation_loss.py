"""The compiled validation loss is that of training, and of each image alone; and its place in a run's files."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.cli import evaluate_weights
from mrcnn_jax.config import LossConfig, TestConfig
from mrcnn_jax.evaluation.dataset_loss import DatasetLoss
from mrcnn_jax.evaluation.evaluate import Evaluation
from mrcnn_jax.mesh import batch_sharding, replicated
from mrcnn_jax.structures import Batch
from mrcnn_jax.training import metrics_log, weights_loss
from mrcnn_jax.training.metrics_log import MetricsLog, Stopwatch
from mrcnn_jax.training.training_program import VALIDATION_KEY, make_loss_program
from mrcnn_jax.weights.folder import Weights
from tests import tiny
from tests.training.conftest import TARGETS

NUM_IMAGES = 8


@pytest.fixture(scope="module")
def batch():
    """Eight images, the last of which is filler."""
    batch = tiny.make_batch(NUM_IMAGES)
    return batch.replace(valid=np.arange(NUM_IMAGES) < NUM_IMAGES - 1)


def test_the_loss_is_that_of_training_and_each_image_stands_alone(trainer, batch):
    own = trainer(NUM_IMAGES)  # an image on each device
    program = make_loss_program(tiny.MODEL, LossConfig(targets=TARGETS, seed=3), own.mesh)
    variables = own.start().variables

    def compute(batch: Batch) -> dict[str, np.ndarray]:
        return jax.device_get(program(variables, jax.device_put(batch, batch_sharding(own.mesh))))

    found = compute(batch)
    assert found.keys() == {"objectness", "rpn_box", "class", "box", "mask", "total"}
    for name, losses in found.items():
        assert losses.shape == (NUM_IMAGES,) and losses[-1] == 0 and (losses[:-1] > 0).all(), name
    # An image's losses are the same bits on any device, beside any other images, and at any time.
    order = np.array([3, 7, 0, 6, 5, 1, 4, 2])
    moved = compute(jax.tree.map(lambda leaf: leaf[order], batch))
    fewer = compute(batch.replace(valid=np.arange(NUM_IMAGES) < 3))
    for name, losses in found.items():
        np.testing.assert_array_equal(moved[name], losses[order], err_msg=name)
        np.testing.assert_array_equal(fewer[name], np.where(np.arange(NUM_IMAGES) < 3, losses, 0), err_msg=name)
    assert program._cache_size() == 1
    # The step with the key of the validation loss samples the same anchors and RoIs, and returns means over the images.
    key = jax.random.fold_in(jax.random.key(3), VALIDATION_KEY)
    inputs = jax.device_put(batch, batch_sharding(own.mesh)), jax.device_put(key, replicated(own.mesh))
    _, metrics = own.compiled(own.start(), *inputs)
    for name, losses in found.items():
        # The step compiles other kernels for the way back, which round otherwise.
        assert float(metrics[f"loss/{name}"]) == pytest.approx(losses[:-1].mean(dtype=np.float64), rel=1e-5), name


def lines_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("is_evaluated", "num_lines"), [(True, 3), (False, 2)])
def test_a_validation_loss_that_is_computed_again_is_not_logged_twice(tmp_path, is_evaluated, num_lines):
    log = MetricsLog(tmp_path, start_step=0)
    for step, name in ((1, "validation_loss"), (2, "loss"), (2, "validation_loss"), (3, "loss")):
        log.write(step, {f"{name}/total": float(step)})
    log.close()
    MetricsLog(tmp_path, start_step=2, is_evaluated=is_evaluated).close()
    assert (
        lines_of(tmp_path)
        == [
            {"step": 1, "validation_loss/total": 1.0},
            {"step": 2, "loss/total": 2.0},
            {"step": 2, "validation_loss/total": 2.0},
        ][:num_lines]
    )


def test_the_stopwatch_measures_the_share_of_waiting(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics_log.time, "monotonic", lambda: now[0])
    watch = Stopwatch()

    def lap(waited: float, worked: float, paused: float) -> None:
        with watch.waiting():
            now[0] += waited
        with watch.paused():
            now[0] += paused
        now[0] += worked
        watch.count_step()
        watch.lap()

    lap(9.0, 1.0, 5.0)
    assert (watch.waiting_share, watch.measured_seconds) == (0.9, 0.0)  # the first lap reads without a lead
    lap(1.0, 3.0, 5.0)
    assert (watch.waiting_share, watch.waited_seconds, watch.measured_seconds) == (0.25, 1.0, 4.0)


def test_the_command_computes_the_loss_of_a_weights_folder(tmp_path, monkeypatch, capsys):
    loaded = Weights({}, tiny.MODEL, TestConfig(), (Category(1, "cat"),), loss=LossConfig(seed=5))
    asked = []

    def compute(dataset, loss_fn, inputs, *, num_devices, progress):
        asked.append((loss_fn(), inputs, num_devices))
        return DatasetLoss({"box": 0.5, "total": 0.5}, 3, {}, {})

    monkeypatch.setattr(weights_loss, "load_weights", lambda path: loaded)
    monkeypatch.setattr(weights_loss, "open_dataset", lambda spec: SimpleNamespace(categories=loaded.categories))
    monkeypatch.setattr(weights_loss, "make_loss_program", lambda model, loss, mesh: lambda variables: loss)
    monkeypatch.setattr(weights_loss, "compute_dataset_loss", compute)
    evaluation = Evaluation({"bbox": {"AP": 0.25}, "skipped": {}}, [], "TABLE")
    monkeypatch.setattr(evaluate_weights, "evaluate_weights", lambda *_, **__: evaluation)
    monkeypatch.setattr(evaluate_weights, "default_test_config", TestConfig)
    monkeypatch.setattr(evaluate_weights, "join_processes", lambda _: None)
    output = tmp_path / "metrics.json"
    options = ["--weights", "w", "--data", "d", "--loss", "--output", str(output), "--test.short-side", "64"]
    monkeypatch.setattr(sys, "argv", ["mrcnn", *options])
    evaluate_weights.main()
    assert json.loads(output.read_text())["loss"] == {"box": 0.5, "total": 0.5}
    assert "Validation loss 0.5: box 0.5." in capsys.readouterr().out
    ((used, inputs, num_devices),) = asked
    assert used == inputs.loss == LossConfig(seed=5) and num_devices == len(jax.local_devices())
    assert inputs.test.short_side == 64 and inputs.categories == loaded.categories
    monkeypatch.setattr(weights_loss, "load_weights", lambda path: replace(loaded, loss=None))  # imported weights
    evaluate_weights.main()
    assert "records no settings of its loss" in capsys.readouterr().out and asked[-1][0] == LossConfig()
