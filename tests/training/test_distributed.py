"""Several processes train one run: the same numbers, one stop, no survivors, errors that all hear of."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from mrcnn_jax import distributed
from mrcnn_jax.config import DistributedConfig
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.data.shapes import shapes_source
from mrcnn_jax.errors import ConfigError, DataError
from tests.processes import HEARTBEAT, Run, losses, saved_steps, worst_difference


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `data` and, later, the runs; they share a compilation cache."""
    folder = tmp_path_factory.mktemp("processes")
    for stream, (split, count) in enumerate((("train", 20), ("val", 7))):
        prepare(shapes_source(count, seed=0, stream=stream), folder / "data", split)
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> list[str]:
    """One canvas and no evaluation: each compiles anew for each number of devices."""
    return ["--data.train", f"{folder}/data:train", "--data.canvases", "96x64"]


def train_and_score(folder: Path, data: list[str], processes: int) -> Run:
    """A whole run of eight steps and an evaluation on two devices."""
    options = [*data, "--data.val", f"{folder}/data:val", "--test.canvases", "96x64"]
    with Run(folder / f"whole-{processes}", processes=processes, devices=2 // processes, options=options) as run:
        assert set(run.wait()) == {0}, run.log()
    return run


@pytest.fixture(scope="module")
def whole(folder: Path, data: list[str]) -> Run:
    """A whole run of one process."""
    return train_and_score(folder, data, 1)


def test_two_processes_train_and_score_as_one_does_bit_for_bit(folder, data, whole):
    # The sum over two devices has one order, so that nothing may differ.
    one, two = whole, train_and_score(folder, data, 2)
    assert losses(one.workdir) == losses(two.workdir) and len(losses(two.workdir)) == 8
    scores = [json.loads((run.workdir / "evaluation.json").read_text()) for run in (one, two)]
    assert scores[0] == scores[1] and scores[0]["num_images"] == 7
    assert "step 8/8" in two.log(0) and "step 8/8" not in two.log(1)  # one of them tells people


def test_a_stopped_run_continues_on_other_numbers_of_processes_and_devices(folder, data, whole):
    moved = folder / "moved"
    for processes, devices, num_steps in ((2, 2, 3), (1, 1, 8)):
        options = [*data, "--train.num-steps", str(num_steps), "--train.shard-optimizer"]
        with Run(moved, processes=processes, devices=devices, options=options) as run:
            assert run.wait() == [0] * processes, run.log()
    assert sorted(losses(moved)) == list(range(1, 9))
    assert worst_difference(losses(whole.workdir), losses(moved)) <= 1e-5


@pytest.fixture(scope="module")
def endless(folder: Path) -> Path:
    """Holds runs with a compilation cache of their own: a step that is in JAX's cache is not kept in `programs`."""
    (folder / "endless").mkdir()
    return folder / "endless"


def test_sigterm_to_one_process_stops_all_at_the_same_step(endless, data):
    options = [*data, "--train.num-steps", "100000"]
    with Run(endless / "stopped", processes=2, devices=1, options=options) as run:
        run.wait_for_step(2)
        run.send(1, signal.SIGTERM)
        start = time.monotonic()
        assert run.wait(timeout=60) == [75, 75], run.log()
    assert time.monotonic() - start < 30
    (step,) = saved_steps(run.workdir)
    assert max(losses(run.workdir)) == step
    for index in range(2):
        assert f"Stopped by SIGTERM at step {step} of 100000" in run.log(index)


def test_no_process_outlives_another(endless, data):
    workdir, stopped = endless / "killed", endless / "stopped"
    if (stopped / "programs").exists():  # the same step need not be traced again
        shutil.copytree(stopped / "programs", workdir / "programs")
    with Run(workdir, processes=2, devices=1, options=[*data, "--train.num-steps", "100000"]) as run:
        run.wait_for_step(2)
        run.send(1, signal.SIGKILL)
        start = time.monotonic()
        first, second = run.wait(timeout=60)
    assert time.monotonic() - start < HEARTBEAT + 10
    assert first in (6, -signal.SIGABRT) and second == -signal.SIGKILL
    if first == 6:
        assert "error: Another process was lost" in run.log()


def test_processes_with_different_settings_are_refused(folder, data):
    own = [["--train.seed", "1"], ["--train.seed", "2"]]
    with Run(folder / "differ", processes=2, devices=1, options=data, own_options=own) as run:
        assert run.wait() == [2, 2], run.log()
    for index in range(2):
        assert "error: Processes 0 and 1 have different settings: train.seed 1 -> 2." in run.log(index)


def test_an_error_of_one_process_is_told_by_all(monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    notes = {"own": b"", "other": json.dumps(["DataError", "bad file"]).encode()}
    monkeypatch.setattr(distributed, "gather_bytes", lambda own: [own, notes["other"]])
    with pytest.raises(DataError, match="Process 1: bad file"), distributed.shared_errors():
        pass
    with pytest.raises(ConfigError, match="mine"), distributed.shared_errors():
        raise ConfigError("mine")
    notes["other"] = json.dumps(["KeyError", "'x'"]).encode()
    with pytest.raises(distributed.DeviceError, match="Process 1 failed: KeyError"), distributed.shared_errors():
        pass
    notes["other"] = b""
    with distributed.shared_errors():
        pass


def find_nothing(**_):
    """What JAX does where nothing names other processes."""
    raise ValueError("coordinator_address should be defined.")


def test_one_process_needs_no_others(monkeypatch):
    assert distributed.gather_bytes(b"abc") == [b"abc"]
    assert distributed.is_primary()
    distributed.wait_for_all("test")
    with pytest.raises(KeyError), distributed.shared_errors():
        raise KeyError("x")
    monkeypatch.setattr(distributed.jax.distributed, "initialize", find_nothing)
    distributed.join_processes(DistributedConfig())
    with pytest.raises(SystemExit, match="3"):
        distributed.leave(3)


def test_a_launcher_that_names_no_coordinator_is_noticed(monkeypatch):
    monkeypatch.setattr(distributed.jax.distributed, "initialize", find_nothing)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"OMPI_COMM_WORLD_SIZE=4\) does not contain the address of process 0"):
        distributed.join_processes(DistributedConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "host"}, "expected HOST:PORT"),
        ({"coordinator": "host:1"}, "process_id"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 2}, "expected 0 to 1"),
        ({"num_processes": 2}, "distributed.coordinator: needed"),
        ({"process_id": 0}, "distributed.coordinator: needed"),
        ({"heartbeat_seconds": 0}, "heartbeat_seconds"),
        ({"start_seconds": 0}, "start_seconds"),
    ],
)
def test_incomplete_addresses_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DistributedConfig(**options)
