"""Times restarts of training to their first new step, with and without the cached programs of a run; prints JSON.

mrcnn benchmark-restart mask_rcnn_r50_fpn_1x --data.train data/coco:train

It trains for a step in a temporary folder and stops. Then, --repeats times, it removes the cached programs and restarts
without them, and restarts again with them. Every restart is timed from the start of its process and stopped at its
first new step.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mrcnn_jax.cli import command_line
from mrcnn_jax.config import Config
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.presets import PACKAGE

TRAIN = (sys.executable, "-m", "mrcnn_jax", "train")
EVERY_STEP = ("--train.log-every", "1", "--train.checkpoint-every", "1")
"""Options with which a step's metrics are written before its checkpoint, not some steps later."""
STOPPED = 75
"""Exit code of a run after a stop request."""
PATIENCE = 7200
"""Seconds to wait for a first step."""


@dataclass(frozen=True)
class Arguments:
    """The run, and the number of its restarts."""

    config: command_line.Inline[Config]
    repeats: int = 3
    """Number of pairs of restarts."""


def main() -> None:
    preset, options, repeats = read_arguments()
    cold, warm = [], []
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        command = [*TRAIN, preset, "--workdir", str(workdir), *options, *EVERY_STEP]
        start_and_stop(command, workdir)
        for number in range(1, repeats + 1):
            shutil.rmtree(workdir / "programs")
            cold.append(start_and_stop(command, workdir))
            warm.append(start_and_stop(command, workdir))
            seconds = f"{cold[-1]:.1f} s without cached programs, {warm[-1]:.1f} s with them"
            command_line.note(f"{number} of {repeats}: {seconds}")
    print(json.dumps(make_report(preset, cold, warm), indent=2))


def read_arguments() -> tuple[str, list[str], int]:
    """Returns preset path, options of the run and number of repeats; ConfigError if one of them is invalid."""
    config, argv = command_line.split_preset()
    description = "Times restarts of training with and without the cached programs of a run; prints JSON."
    arguments = command_line.parse(Arguments(config), description, argv, usage="PRESET")
    if arguments.repeats < 1:
        raise ConfigError("--repeats: expected 1 or more.")
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--repeats")
    return sys.argv[1], own.parse_known_args(argv)[1], arguments.repeats


def start_and_stop(command: list[str], workdir: Path) -> float:
    """Returns the seconds from a start of training to its first new line of metrics; DataError if it ends before."""
    curves = workdir / "metrics.jsonl"
    before = num_lines(curves)
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, [environment.get("PYTHONPATH")])])
    with (workdir / "train.log").open("w+") as log:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
            while num_lines(curves) == before and process.poll() is None and time.perf_counter() - start < PATIENCE:
                time.sleep(0.01)
            seconds = time.perf_counter() - start
            is_late = seconds >= PATIENCE
            process.send_signal(signal.SIGTERM)
            code = process.wait()
        if is_late:
            raise DataError(f"Training completed no step within {PATIENCE} s.")
        if code != STOPPED:
            log.seek(0)
            last = [line for line in log.read().splitlines() if line.strip()][-1:]
            raise DataError(f"Training ended with exit code {code} instead of {STOPPED}: {' '.join(last)}")
    return seconds


def num_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def make_report(preset: str, cold: list[float], warm: list[float]) -> dict[str, object]:
    """Returns the report, which is printed as JSON."""
    return {
        "preset": Path(preset).stem,
        "seconds_without_programs": [round(seconds, 2) for seconds in cold],
        "seconds_with_programs": [round(seconds, 2) for seconds in warm],
        "ratio_of_medians": round(statistics.median(cold) / statistics.median(warm), 2),
    }
