"""Going back in a run, and ending it early: messages name what is on disk, and each file is of the named step."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from mrcnn_jax.errors import DataError, Preempted
from mrcnn_jax.run_folder import check_source, describe_source, read_run_folder
from mrcnn_jax.training import loop
from mrcnn_jax.weights.folder import find_weights
from tests.training.test_loop import CONFIG, World, saved_steps, with_train


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def steps_of_files(workdir: Path) -> tuple[int, int]:
    """Steps of the weights and of the scores, read without the package."""
    files = workdir / "weights" / "description.json", workdir / "evaluation.json"
    weights, scores = (json.loads(file.read_text())["step"] for file in files)
    return weights, scores


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(0.2)


def test_removed_checkpoint_with_fewer_steps(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop.train(CONFIG, tmp_path)
    assert saved_steps(tmp_path) == [16, 20] and steps_of_files(tmp_path) == (20, 20)
    shutil.rmtree(tmp_path / "checkpoints" / "20")
    capsys.readouterr()
    loop.train(with_train(num_steps=16), tmp_path)
    printed = capsys.readouterr().out
    assert (
        f"{tmp_path}/weights is of step 20 and {tmp_path}/evaluation.json is of step 20, but the last evaluation in "
        "checkpoint step 16 is of step 16. Step 16 is evaluated now." in printed
    )
    assert f"Trained to step 16. Weights: {tmp_path}/weights (step 16)" in printed
    assert steps_of_files(tmp_path) == (16, 16)


def test_removed_checkpoint_between_evaluations(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop.train(with_train(num_steps=10, eval_every=0), tmp_path)  # 5 without an evaluation, 10 with one
    shutil.rmtree(tmp_path / "checkpoints" / "10")
    capsys.readouterr()
    world.before_batch = lambda step: interrupt() if step == 6 else None
    with pytest.raises(Preempted) as stopped:
        loop.train(with_train(eval_every=0), tmp_path)
    printed = capsys.readouterr().out
    assert "step 10, but checkpoint step 5 records no evaluation. The next one replaces this." in printed
    step = saved_steps(tmp_path)[-1]
    assert (
        f"{tmp_path}/weights contains the weights of step 10. `mrcnn weights --workdir {tmp_path} --step {step} "
        in (str(stopped.value))
    )


def test_removed_weights_are_written_again(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop.train(CONFIG, tmp_path)
    shutil.rmtree(tmp_path / "weights")
    capsys.readouterr()
    loop.train(CONFIG, tmp_path)
    printed = capsys.readouterr().out
    assert (
        f"{tmp_path}/weights does not exist, but the last evaluation in checkpoint step 20 is of step 20. Step"
        in printed
    )
    assert printed.count("TABLE") == 1 and f"Weights: {tmp_path}/weights (step 20)" in printed
    assert steps_of_files(tmp_path) == (20, 20)


def test_weights_removed_while_the_run_ends_are_not_named(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mrcnn_jax.training.validation.save_weights", lambda path, variables, **_: None)
    loop.train(with_train(num_steps=5), tmp_path)
    printed = capsys.readouterr().out
    assert f"Trained to step 5, but {tmp_path}/weights does not exist. `mrcnn weights --workdir" in printed
    assert "mrcnn predict" not in printed


def test_fewer_steps(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop.train(CONFIG, tmp_path)
    capsys.readouterr()
    loop.train(with_train(num_steps=10), tmp_path)
    printed = capsys.readouterr().out
    assert (
        "Nothing was trained: the newest checkpoint is of step 20, beyond --train.num-steps 10. Kept: steps 16, 20."
        in printed
    )
    assert f"Trained to step 20. Weights: {tmp_path}/weights (step 20)" in printed
    assert steps_of_files(tmp_path) == (20, 20)


def test_interrupt_before_the_first_evaluation(world: World, tmp_path: Path) -> None:
    world.before_batch = lambda step: interrupt() if step == 3 else None
    with pytest.raises(Preempted) as stopped:
        loop.train(CONFIG, tmp_path)
    (step,) = saved_steps(tmp_path)
    command = f"`mrcnn weights --workdir {tmp_path} --step {step} --to {tmp_path}/weights`"
    assert str(stopped.value) == (
        f"Stopped by SIGINT at step {step} of 20; the state is saved in {tmp_path}/checkpoints/{step}. There is no "
        f"{tmp_path}/weights: the run has not finished an evaluation, or the folder was removed. {command} writes "
        f"those of step {step}. Run the same command again to continue."
    )
    with pytest.raises(DataError, match="contains neither") as missing:
        find_weights(tmp_path)
    assert command in str(missing.value)


def test_interrupt_while_the_first_state_is_compiled(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def start(run: loop.TrainingRun):
        interrupt()
        return started(run)

    started = loop.TrainingRun.start_or_resume
    monkeypatch.setattr(loop.TrainingRun, "start_or_resume", start)
    with pytest.raises(Preempted) as stopped:
        loop.train(CONFIG, tmp_path)
    assert str(stopped.value) == (
        f"Stopped by SIGINT before the first of 20 steps; nothing is saved in {tmp_path}. There is no "
        f"{tmp_path}/weights: the run has not finished an evaluation, or the folder was removed. Run the same "
        "command again to start."
    )
    assert saved_steps(tmp_path) == []
    assert "SIGINT: the run ends after its current step" in (printed := capfd.readouterr().err)
    assert "Another signal ends it at once (nothing is saved).\n" in printed


def test_interrupt_while_the_step_is_compiled(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_slowly(*arguments):
        interrupt()
        return load_or_compile(*arguments)

    load_or_compile = loop.load_or_compile
    monkeypatch.setattr(loop, "load_or_compile", compile_slowly)
    with pytest.raises(Preempted, match=rf"SIGINT at step 1 of 20; the state is saved in {tmp_path}/checkpoints/1\."):
        loop.train(CONFIG, tmp_path)
    assert saved_steps(tmp_path) == [1]
    with pytest.raises(
        Preempted, match=r"SIGINT at step 2 of 20; the state is saved in .*/checkpoints/2\. There is no"
    ):
        loop.train(CONFIG, tmp_path)


def test_interrupt_during_the_last_evaluation(world: World, tmp_path: Path) -> None:
    world.during_evaluation = interrupt
    message = r"at step 5 of 5; the state is saved in .*/checkpoints/5, and its evaluation was not finished\."
    with pytest.raises(Preempted, match=message):
        loop.train(with_train(num_steps=5), tmp_path)


def test_files_of_older_runs_have_no_step(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop.train(CONFIG, tmp_path)
    (tmp_path / "weights" / "description.json").write_text("{}")
    capsys.readouterr()
    loop.train(CONFIG, tmp_path)
    printed = capsys.readouterr().out
    assert "TABLE" not in printed and f"Weights: {tmp_path}/weights (step not recorded)" in printed
    assert describe_source(tmp_path) == f"{tmp_path}/weights"
    assert "earlier version" in read_run_folder(tmp_path).describe_weights()


def test_weights_scores_and_checkpoints_of_other_steps_are_noted_where_they_are_used(
    world: World, tmp_path: Path
) -> None:
    loop.train(CONFIG, tmp_path)
    assert (describe_source(tmp_path), check_source(tmp_path)) == (f"{tmp_path}/weights, step 20", "")
    (tmp_path / "weights" / "description.json").write_text('{"step": 16}')
    assert describe_source(tmp_path) == describe_source(tmp_path / "weights") == f"{tmp_path}/weights, step 16"
    assert check_source(tmp_path) == (
        f"{tmp_path}/evaluation.json has the scores of step 20, not of these weights. Kept checkpoints: steps 16, 20. "
        f"`mrcnn weights --workdir {tmp_path} --step 20 --to DIR` writes those of step 20."
    )
    assert check_source(tmp_path / "weights") == ""
    (tmp_path / "evaluation.json").write_text("damaged")
    assert check_source(tmp_path).startswith("Kept checkpoints")
