"""Several processes train one run, at length: sixty starts of it, on generated images or on real ones.

    python -m pytest -m slow tests/slow/test_processes.py
    MRCNN_JAX_DATA=DIR ...     # a folder that prepare_data.py made, with the splits train and val, instead

Takes about forty minutes on two idle CPU cores.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.data.shapes import shapes_source
from tests.processes import HEARTBEAT, Run, losses, read_metrics, saved_steps, worst_difference

pytestmark = pytest.mark.slow

NUM_TRIALS = 10
# So slow that the sums over devices, whose order differs, change hardly a bit of a parameter. Where they do, a
# proposal moves by its last bit, and now and then a pixel of a mask's target flips.
SLOWLY = ["--train.learning-rate", "4e-6"]
TWENTY = ["--train.num-steps", "20"]
ENDLESS = ["--train.num-steps", "100000"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def data(folder: Path) -> list[str]:
    source = os.environ.get("MRCNN_JAX_DATA", "")
    if not source:
        source = str(folder / "data")
        for stream, (split, count) in enumerate((("train", 50), ("val", 7))):
            prepare(shapes_source(count, seed=0, stream=stream), folder / "data", split)
    return ["--data.train", f"{source}:train", "--data.val", f"{source}:val", "--data.max-skip-fraction", "1"]


def run(workdir: Path, processes: int, devices: int, options: list[str]) -> None:
    with Run(workdir, processes=processes, devices=devices, options=options) as started:
        assert started.wait(timeout=1200) == [0] * processes, started.log()


@pytest.fixture(scope="module")
def eight(folder: Path, data: list[str]) -> Path:
    """A run of twenty steps on eight devices of one process."""
    run(folder / "eight", 1, 8, [*data, *TWENTY, *SLOWLY])
    return folder / "eight"


def test_twenty_steps_on_two_processes_and_on_one_device(folder, data, eight):
    run(folder / "two", 2, 4, [*data, *TWENTY, *SLOWLY])
    run(folder / "one", 1, 1, [*data, *TWENTY, *SLOWLY])
    run(folder / "still", 1, 8, [*data, *TWENTY, "--train.learning-rate", "1e-12"])
    assert len(losses(eight)) == 20
    print({name: worst_difference(losses(eight), losses(folder / name)) for name in ("two", "one", "still")})
    assert worst_difference(losses(eight), losses(folder / "two")) <= 1e-6
    assert worst_difference(losses(eight), losses(folder / "one")) <= 1e-5
    assert worst_difference(losses(eight), losses(folder / "still")) >= 2e-4  # the losses do tell what was learnt


def test_a_run_moves_between_numbers_of_processes_and_devices(folder, data, eight):
    workdir = folder / "moved"
    for num_steps, processes, devices in ((4, 2, 4), (8, 2, 2), (12, 1, 2), (16, 1, 1), (20, 2, 4)):
        run(workdir, processes, devices, [*data, *SLOWLY, "--train.num-steps", str(num_steps)])
    assert sorted(losses(workdir)) == list(range(1, 21))
    print(worst_difference(losses(eight), losses(workdir)))
    assert worst_difference(losses(eight), losses(workdir)) <= 1e-5
    counts = [read_metrics(path, lambda line: (line["images"], line["epoch"])) for path in (eight, workdir)]
    assert counts[0] == counts[1]


def test_a_stop_request_to_any_process_stops_all_at_the_same_step(folder, data):
    workdir, last = folder / "stopped", 0
    for trial in range(NUM_TRIALS):
        with Run(workdir, processes=2, devices=2, options=[*data, *ENDLESS]) as started:
            started.wait_for_step(last + 2)
            time.sleep(random.Random(trial).uniform(0, 0.5))
            started.send(trial % 2, signal.SIGTERM)
            start = time.monotonic()
            assert started.wait(timeout=60) == [75, 75], started.log()
        assert time.monotonic() - start < 30
        step = max(saved_steps(workdir))
        assert max(losses(workdir)) == step > last
        for index in range(2):
            assert f"at step {step} of" in started.log(index)
        last = step
    assert sorted(losses(workdir)) == list(range(1, last + 1))


def test_a_killed_process_ends_the_others_and_little_is_lost(folder, data):
    workdir, every = folder / "killed", 5
    options = [*data, *ENDLESS, "--train.checkpoint-every", str(every)]
    for trial in range(NUM_TRIALS):
        before = max(saved_steps(workdir), default=0)
        with Run(workdir, processes=2, devices=2, options=options) as started:
            started.wait_for_step(before + 7)
            time.sleep(random.Random(trial).uniform(0, 0.5))
            reached = max(losses(workdir))
            started.send(trial % 2, signal.SIGKILL)
            start = time.monotonic()
            codes = started.wait(timeout=HEARTBEAT + 60)
        assert time.monotonic() - start < HEARTBEAT + 10
        assert codes[trial % 2] == -signal.SIGKILL and codes[1 - trial % 2] in (6, -signal.SIGABRT), codes
        # A save that was under way may be lost, and the log may be two steps behind.
        assert max(saved_steps(workdir)) > reached - 2 * every, (trial, reached, saved_steps(workdir))
    run(workdir, 2, 2, [*data, "--train.num-steps", str(max(saved_steps(workdir)) + 3)])
    assert sorted(losses(workdir)) == list(range(1, max(losses(workdir)) + 1))
