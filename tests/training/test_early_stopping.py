"""Early stopping: which step is best, when patience ends, and that no interruption changes either."""

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mrcnn_jax.config import DataConfig, TrainConfig
from mrcnn_jax.errors import ConfigError, Preempted
from mrcnn_jax.json_files import digest_json, write_json
from mrcnn_jax.training import checkpoint, loop, validation
from mrcnn_jax.training.checkpoint import Checkpoints
from mrcnn_jax.training.checkpoint_reader import EvaluationRecord
from mrcnn_jax.training.early_stopping import ScoredStep, ScoreHistory, describe_score
from tests.training.test_loop import CONFIG, World, leaf_records, metrics_of, saved_steps

PATIENT = replace(
    CONFIG,
    train=replace(
        CONFIG.train,
        num_steps=60,
        eval_every=2,
        checkpoint_every=3,
        patience=3,
        validation_loss=True,
        best_by="loss",
        log_every=1,
    ),
)


class Killed(BaseException):
    """Ends a run like SIGKILL: nothing is saved on the way out."""


class ScoringWorld(World):
    """The validation loss is a function of the state alone, and the weights that are written can be read back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.evaluating = 0
        monkeypatch.setattr(validation, "make_loss_program", lambda *_: lambda variables: variables)
        monkeypatch.setattr(validation, "compute_dataset_loss", self.compute_loss)

    def compute_loss(self, dataset, loss_fn, inputs, *, before_batch, **_):
        before_batch()
        weight = float(loss_fn()["params"]["weight"][0])
        terms = {"box": abs(weight - 2), "total": abs(weight - 2) + 1}
        return SimpleNamespace(terms=terms, describe=lambda: f"LOSS {terms['total']}")

    def save_weights(self, path, variables, *, step, **_):
        weight = np.asarray(jax.device_get(variables["params"]["weight"])).tolist()
        write_json(Path(path) / "description.json", {"step": step, "weight": weight})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> ScoringWorld:
    return ScoringWorld(monkeypatch)


def outcome_of(workdir: Path) -> dict:
    """All that has to be the same: last state, kept steps, scores, curves, and both weights folders."""
    steps = saved_steps(workdir)
    history = json.loads((workdir / "checkpoints" / str(steps[-1]) / "description" / "metadata").read_text())["history"]
    timed = ("images_per_second", "seconds", "waiting_share")
    curves = [{name: value for name, value in line.items() if name not in timed} for line in metrics_of(workdir)]
    files = ("evaluation.json", "weights/description.json", "best/description.json")
    contents = {name: json.loads((workdir / name).read_text()) for name in files}
    contents["evaluation.json"].pop("segm")  # a counter in the stand-in
    return {"kept": steps, "leaves": leaf_records(workdir, steps[-1]), "history": history, "curves": curves} | contents


def test_the_best_is_the_first_of_the_highest_and_patience_counts_those_after_it():
    history = ScoreHistory()
    assert history.best is None and history.num_worse == 0
    for step, score in ((2, 0.0), (4, 0.0), (6, 0.0)):
        history = history.add(step, score)
    assert history.num_worse == 0  # nothing is found yet
    for step, score in ((8, 0.5), (10, 0.4), (12, None), (14, 0.5)):
        history = history.add(step, score)
    assert history.best == ScoredStep(8, 0.5) and history.num_worse == 2  # equal is not better
    assert [history.is_exhausted(patience) for patience in (0, 1, 2, 3)] == [False, True, True, False]
    again = history.add(10, 0.6)  # the run went back
    assert again.entries[-2:] == (ScoredStep(8, 0.5), ScoredStep(10, 0.6)) and again.num_worse == 0
    assert ScoreHistory.from_json(json.loads(json.dumps(history.entries))) == history
    assert (describe_score(0.5, "auto"), describe_score(-2.25, "loss")) == ("AP 0.500", "validation loss 2.25")


def test_no_interruption_changes_when_a_run_stops_and_what_is_best(world, tmp_path, monkeypatch, capsys):
    loop.train(PATIENT, tmp_path / "whole")
    expected = outcome_of(tmp_path / "whole")
    last, best = expected["kept"][-1], expected["best/description.json"]["step"]
    assert 2 < best < last < 60 and last == best + 3 * 2
    assert "Stopped early at step" in capsys.readouterr().out

    parts, calls = tmp_path / "parts", []
    points = iter(range(1000))
    ways = [Killed, signal.SIGTERM]

    def interrupt(place: str, step: int) -> None:
        """Interrupts every place at which a run can end once, in turn by death and by a signal."""
        if (place, step) in calls:
            return
        calls.append((place, step))
        way = ways[next(points) % 2]
        if way is Killed:
            raise Killed
        os.kill(os.getpid(), way)
        threading.Event().wait(0.05)

    record, evaluate = Checkpoints.record_evaluation, validation.Validation.evaluate

    def evaluate_and_die(self, state, step):
        world.evaluating = step
        evaluated = evaluate(self, state, step)
        if step % 4 == 0 and ("evaluated", step) not in calls:
            calls.append(("evaluated", step))
            raise Killed  # its files are written, but no checkpoint
        return evaluated

    def die_before_record(self, evaluated, history):
        if ("record", evaluated.step) not in calls:
            calls.append(("record", evaluated.step))
            raise Killed
        record(self, evaluated, history)

    monkeypatch.setattr(validation.Validation, "evaluate", evaluate_and_die)
    monkeypatch.setattr(Checkpoints, "record_evaluation", die_before_record)
    world.before_batch = lambda step: interrupt("batch", step) if step % 3 == 1 else None
    world.during_evaluation = lambda: interrupt("evaluation", world.evaluating)
    for _ in range(200):
        try:
            loop.train(PATIENT, parts)
            break
        except (Killed, Preempted):
            continue
    assert {place for place, _ in calls} == {"batch", "evaluation", "evaluated", "record"} and len(calls) > 15
    found = outcome_of(parts)
    assert set(expected["kept"]) >= {best, last} and {best, last} <= set(found["kept"])
    for name in expected.keys() - {"kept"}:
        assert found[name] == expected[name], name


def test_an_evaluation_after_its_checkpoint_is_added_to_it(world, tmp_path):
    """A signal during the evaluation of the best step: without its score, the step would not be kept."""
    loop.train(PATIENT, tmp_path / "whole")
    best = outcome_of(tmp_path / "whole")["best/description.json"]
    seen = []

    def stop_at_the_best():
        seen.append(1)
        if len(seen) == best["step"] // 2:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(0.2)

    world.during_evaluation = stop_at_the_best
    with pytest.raises(Preempted, match=f"at step {best['step']} of 60; the state is saved"):
        loop.train(PATIENT, tmp_path / "parts")
    loop.train(PATIENT, tmp_path / "parts")
    assert outcome_of(tmp_path / "parts")["best/description.json"] == best
    assert best["step"] in saved_steps(tmp_path / "parts")


def test_a_stopped_run_goes_on_only_with_more_patience(world, tmp_path, capsys):
    loop.train(PATIENT, tmp_path)
    before = outcome_of(tmp_path)
    capsys.readouterr()
    loop.train(PATIENT, tmp_path)
    assert "Stopped early" in capsys.readouterr().out and outcome_of(tmp_path) == before
    endless = replace(PATIENT, train=replace(PATIENT.train, patience=0, num_steps=before["kept"][-1] + 6))
    loop.train(endless, tmp_path)
    loop.train(endless, tmp_path / "whole")
    assert losses_of_steps(tmp_path) == losses_of_steps(tmp_path / "whole")
    assert "Stopped early" not in capsys.readouterr().out


def losses_of_steps(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["loss/total"] for line in metrics_of(workdir) if "loss/total" in line}


def test_one_evaluation_leaves_no_choice(world, tmp_path, capsys):
    loop.train(replace(PATIENT, train=replace(PATIENT.train, patience=0, eval_every=0, num_steps=4)), tmp_path)
    assert not (tmp_path / "best").exists() and f"--weights {tmp_path} " in capsys.readouterr().out


def test_all_processes_read_a_step_before_its_evaluation_is_recorded(tmp_path, monkeypatch):
    """Orbax waits for every process when it reads, so none may read alone."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(4, {"weight": np.ones(2, np.float32)}, {}, None)
    checkpoints.wait()
    file = tmp_path / "4" / "description" / "metadata"
    before, read, calls = file.read_bytes(), checkpoint.read_description, []
    monkeypatch.setattr(checkpoint, "read_description", lambda *of: (calls.append(of), read(*of))[1])
    for is_primary in (False, True):
        monkeypatch.setattr(checkpoint, "is_primary", lambda is_primary=is_primary: is_primary)
        checkpoints.record_evaluation(EvaluationRecord(4, {}, 0.5), ScoreHistory().add(4, 0.5))
        assert (file.read_bytes() == before) != is_primary
    assert len(calls) == 2
    checkpoints.close()


def test_checkpoints_of_earlier_versions_begin_the_history(tmp_path):
    state = {"weight": np.ones(2, np.float32)}
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(4, state, {}, EvaluationRecord(2, {}, 0.5), ScoreHistory().add(2, 0.5))
    checkpoints.wait()
    file = tmp_path / "4" / "description" / "metadata"
    content = json.loads(file.read_text())
    del content["history"], content["sha256"]
    file.write_text(json.dumps(content | {"sha256": digest_json(content)}))
    restored = checkpoints.restore(state, {})
    assert restored is not None and restored.history == ScoreHistory((ScoredStep(2, 0.5),))
    checkpoints.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": 2, "eval_every": 0}, r"train\.eval_every has to be above 0"),
        ({"best_by": "loss"}, r"only with train\.validation_loss"),
        ({"patience": -1}, "0 or more"),
        ({"best_by": "ap"}, "best_by"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"patience": 2, "eval_every": 2}, DataConfig(train="train"), r"--train\.patience needs validation data"),
        ({"validation_loss": True}, DataConfig(train="train"), r"--train\.validation-loss needs validation data"),
        ({"best_by": "keypoint_ap"}, CONFIG.data, "the model has no keypoint head"),
    ],
)
def test_scores_that_nothing_provides_are_refused(world, tmp_path, changes, data, message):
    config = replace(CONFIG, data=data, train=replace(CONFIG.train, **changes))
    with pytest.raises(ConfigError, match=message):
        loop.train(config, tmp_path)


def test_the_score_is_the_chosen_one():
    metrics = {"segm": {"AP": 0.1}, "bbox": {"AP": 0.2}, "keypoints": {"AP": 0.3}, "loss": {"total": 2.5}}
    names = ("auto", "mask_ap", "box_ap", "keypoint_ap", "loss")
    assert [validation.choose_score(metrics, name) for name in names] == [0.1, 0.1, 0.2, 0.3, -2.5]
    assert [validation.choose_score({}, name) for name in names] == [None] * 5
