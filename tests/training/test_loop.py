"""The training loop on a model of one number: resume, preemption, evaluations, and what ends up in the workdir."""

import json
import os
import signal
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from mrcnn_jax.errors import ConfigError, DataError, NumericalError, Preempted
from mrcnn_jax.inference import prediction_program
from mrcnn_jax.json_files import write_json
from mrcnn_jax.structures import Batch, GroundTruth
from mrcnn_jax.training import data_checks, loop, training_program, validation
from mrcnn_jax.training.state import TrainState

NUM_DEVICES = 8
CONFIG = Config(
    model=ModelConfig(num_classes=0),
    data=DataConfig(train="train", val="val"),
    train=TrainConfig(
        num_steps=20, batch_size=NUM_DEVICES, log_every=1, eval_every=8, checkpoint_every=5, warmup_steps=3
    ),
)


@dataclass
class FakeData:
    """A data set of which only the facts are asked."""

    name: str
    fingerprint: str = "abc"
    categories: tuple[Category, ...] = (Category(3, "cat"), Category(7, "dog"))
    num_with_mask, num_without_mask, has_no_masks = 30, 0, False
    num_objects, num_crowds, depth = None, 0, "auto"
    sizes, objects = np.full((100, 2), 100), lambda self, index: ()

    def __len__(self) -> int:
        return 100


@dataclass
class FakeBatches:
    """The step's number is on the images; `before` is called with it before its batch is given out."""

    start_step: int
    num_steps: int
    before: object = None
    dropped_objects: int = 5
    given: list[int] = field(default_factory=list)

    def __iter__(self):
        for step in range(self.start_step, self.num_steps):
            if self.before is not None:
                self.before(step)
            self.given.append(step)
            yield make_batch(step)


def make_batch(step: int) -> Batch:
    ground_truth = GroundTruth(
        np.zeros((NUM_DEVICES, 1, 4), np.float32),
        np.zeros((NUM_DEVICES, 1), np.int32),
        np.zeros((NUM_DEVICES, 1, 2, 2), np.uint8),
        np.zeros((NUM_DEVICES, 1), bool),
    )
    side = 32 + 32 * (step % 2)  # two canvases
    ids = np.arange(NUM_DEVICES, dtype=np.int32) + 100 * step
    return Batch(
        np.full((NUM_DEVICES, side, 32, 3), step, np.uint8),
        np.full((NUM_DEVICES, 2), 32, np.int32),
        ground_truth,
        np.ones(NUM_DEVICES, bool),
        ids,
        ids,
    )


class World:
    """Stands in for model, data, step and evaluation, and records how they are called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before_batch = None
        self.nan_at: int | None = None
        self.invalid_images = 0
        self.evaluated: list[int] = []
        self.during_evaluation = lambda: None
        self.num_traces = 0
        self.scores = iter(np.linspace(0.1, 0.9, 100).tolist())
        monkeypatch.setattr(data_checks, "open_dataset", lambda spec: FakeData(spec))
        monkeypatch.setattr(loop, "training_batches", self.training_batches)
        monkeypatch.setattr(training_program, "make_optimizer", lambda *_: None)
        monkeypatch.setattr(training_program, "create_train_state", self.create_state)
        monkeypatch.setattr(training_program, "make_train_step", lambda mesh, **_: self.step)
        monkeypatch.setattr(validation, "evaluate", self.evaluate)
        monkeypatch.setattr(prediction_program, "predict", lambda variables, images, *_, **__: images)
        monkeypatch.setattr(validation, "save_weights", self.save_weights)
        monkeypatch.setattr(validation.Validation, "draw_pictures", lambda run, dataset, evaluation: None)

    def training_batches(self, dataset, data_config, *, start_step, num_steps, process_index, process_count, **_):
        assert (process_index, process_count) == (0, 1)
        return FakeBatches(start_step, num_steps, self.before_batch)

    def create_state(self, model, optimizer, seed):
        return TrainState(jnp.zeros((), jnp.int32), {"weight": jnp.full((4,), seed + 1, jnp.float32)}, {}, {})

    def step(self, state, batch, key):
        self.num_traces += 1
        number = batch.images[0, 0, 0, 0].astype(jnp.float32)
        loss = jnp.where(number == (-1 if self.nan_at is None else self.nan_at), jnp.nan, jnp.sin(number))
        weight = state.params["weight"] * 0.9 + loss * jnp.cos(batch.sample_index[0].astype(jnp.float32))
        metrics = {"loss/total": 2 * loss, "loss/box": loss, "gradient_norm": jnp.float32(1)}
        metrics["images"] = jnp.where(number == 2, NUM_DEVICES - self.invalid_images, NUM_DEVICES)
        return state.replace(step=state.step + 1, params={"weight": weight}), metrics

    def evaluate(
        self, dataset, predict_fn, *, test_config, num_devices, progress, max_skip_fraction, before_batch, categories
    ):
        assert num_devices == NUM_DEVICES
        self.during_evaluation()
        before_batch()
        predict_fn(np.zeros((NUM_DEVICES, 32, 32, 3), np.uint8), np.zeros((NUM_DEVICES, 2), np.int32))
        return SimpleNamespace(metrics={"segm": {"AP": next(self.scores)}}, table="TABLE", results=[])

    def save_weights(self, path, variables, *, model_config, test_config, categories, step, loss_config):
        assert model_config.num_classes == 2
        write_json(Path(path) / "description.json", {"step": step})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def metrics_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses_of(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["loss/total"] for line in metrics_of(workdir)}


def saved_steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def leaf_records(workdir: Path, step: int) -> dict:
    return json.loads((workdir / "checkpoints" / str(step) / "description" / "metadata").read_text())["leaves"]


def with_train(**changes) -> Config:
    return replace(CONFIG, train=replace(CONFIG.train, **changes))


def test_a_run_writes_what_it_promises(world, tmp_path, capsys):
    loop.train(CONFIG, tmp_path)
    lines = metrics_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert {"loss/total", "loss/box", "learning_rate", "images_per_second", "epoch", "seconds"} <= lines[0].keys()
    assert lines[-1]["epoch"] == 20 * NUM_DEVICES / 100
    assert saved_steps(tmp_path) == [16, 20]  # 20 is the best, 16 was evaluated too
    assert json.loads((tmp_path / "config.json").read_text())["model"]["num_classes"] == 2
    assert json.loads((tmp_path / "evaluation.json").read_text())["step"] == 20
    assert list((tmp_path / "tensorboard").iterdir())
    output = capsys.readouterr().out
    assert "step 20/20  loss " in output and "images/s  eta 0:00:00" in output
    assert output.count("TABLE") == 3
    assert "Left out: 0 images that could not be read, 5 objects beyond --data.max-objects 100." in output
    assert f"Next: mrcnn predict --weights {tmp_path}" in output
    assert world.num_traces == 2  # one compilation a canvas


def test_resumed_run_equals_uninterrupted_run_bit_for_bit(world, tmp_path, capsys):
    loop.train(CONFIG, tmp_path / "whole")
    loop.train(with_train(num_steps=10), tmp_path / "parts")
    loop.train(CONFIG, tmp_path / "parts")
    assert "Continuing from step 10" in capsys.readouterr().out
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    assert leaf_records(tmp_path / "parts", 20) == leaf_records(tmp_path / "whole", 20)


def test_finished_run_is_not_evaluated_again(world, tmp_path, capsys):
    loop.train(CONFIG, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    capsys.readouterr()
    loop.train(CONFIG, tmp_path)
    assert "TABLE" not in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_signal_saves_and_the_run_continues(world, tmp_path):
    loop.train(CONFIG, tmp_path / "whole")
    world.before_batch = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 9 else None
    with pytest.raises(Preempted, match=r"Stopped by SIGTERM at step \d+ of 20; the state is saved"):
        loop.train(CONFIG, tmp_path / "parts")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    (stopped_at,) = {max(saved_steps(tmp_path / "parts"))}
    assert max(losses_of(tmp_path / "parts")) == stopped_at
    world.before_batch = None
    loop.train(CONFIG, tmp_path / "parts")
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")


def test_signal_during_evaluation_saves_and_evaluates_later(world, tmp_path, capsys):
    def stop_and_wait():
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.2)

    world.during_evaluation = stop_and_wait
    with pytest.raises(Preempted, match="SIGINT at step 8"):
        loop.train(CONFIG, tmp_path)
    assert max(saved_steps(tmp_path)) == 8
    assert not (tmp_path / "evaluation.json").exists()
    world.during_evaluation = lambda: None
    loop.train(CONFIG, tmp_path)
    assert capsys.readouterr().out.count("TABLE") == 3


def test_signal_during_the_last_evaluation_leaves_it_to_the_next_run(world, tmp_path, capsys):
    def stop_and_wait():
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(0.2)

    world.during_evaluation = stop_and_wait
    with pytest.raises(Preempted, match="SIGTERM at step 5 of 5"):
        loop.train(with_train(num_steps=5), tmp_path)
    world.during_evaluation = lambda: None
    loop.train(with_train(num_steps=5), tmp_path)
    assert capsys.readouterr().out.count("TABLE") == 1
    assert json.loads((tmp_path / "evaluation.json").read_text())["step"] == 5


def test_killed_run_leaves_no_step_twice_in_the_metrics(world, tmp_path):
    loop.train(with_train(num_steps=10), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:  # what a killed process had logged beyond its checkpoint
        file.write('{"step": 11, "loss/total": 5.0}\n{"step": 12, "los')
    loop.train(CONFIG, tmp_path)
    assert [line["step"] for line in metrics_of(tmp_path)] == list(range(1, 21))


def test_not_finite_loss_names_step_term_and_images_and_is_not_saved(world, tmp_path):
    world.nan_at = 9  # the tenth step, at which a checkpoint is due
    with pytest.raises(NumericalError, match=r"Step 10: loss/box is nan on images 900, 901") as error:
        loop.train(with_train(eval_every=0, log_every=7), tmp_path)
    assert "loss/total" not in str(error.value)
    assert saved_steps(tmp_path) == [5]
    assert [line["step"] for line in metrics_of(tmp_path)] == [7, 10]  # written although it is no logged step
    last = metrics_of(tmp_path)[-1]
    assert last["step"] == 10 and last["loss/box"] is None
    assert set(last["not_finite"]) == {"loss/total", "loss/box"}


def test_without_validation_data_the_weights_are_written(world, tmp_path, capsys):
    config = replace(with_train(eval_every=0), data=DataConfig(train="train"))
    loop.train(config, tmp_path)
    assert (tmp_path / "weights").is_dir() and not (tmp_path / "evaluation.json").exists()
    assert saved_steps(tmp_path) == [15, 20]
    loop.train(config, tmp_path)
    assert "Trained to step 20" in capsys.readouterr().out


def test_other_data_or_model_on_resume_is_refused(world, tmp_path, monkeypatch):
    loop.train(with_train(num_steps=5), tmp_path)
    with pytest.raises(ConfigError, match=r"model\.fpn_channels 256 -> 128"):
        loop.train(replace(CONFIG, model=replace(CONFIG.model, fpn_channels=128)), tmp_path)
    monkeypatch.setattr(data_checks, "open_dataset", lambda spec: FakeData(spec, fingerprint="other"))
    with pytest.raises(ConfigError, match=r"dataset\.fingerprint abc -> other"):
        loop.train(CONFIG, tmp_path)


def test_too_many_unreadable_images_stop_the_run(world, tmp_path):
    world.invalid_images = 1
    loop.train(with_train(num_steps=5), tmp_path / "few")
    world.invalid_images = 2
    with pytest.raises(DataError, match=r"2 of 100 images cannot be read, more than 1\.0%"):
        loop.train(CONFIG, tmp_path / "many")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, data=DataConfig()), r"--data\.train"),
        (replace(CONFIG, model=ModelConfig(num_classes=80)), r"--model\.num-classes is 80, but train has 2"),
        (with_train(batch_size=12), r"--train\.batch-size 12 is not divisible by 8 devices\. Use 8 or 16\."),
        (with_train(batch_size=2), r"is not divisible by 8 devices\. Use 8\."),
    ],
)
def test_impossible_settings_are_refused_before_the_first_step(world, tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        loop.train(config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
