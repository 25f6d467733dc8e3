"""Output of a run during training: metrics.jsonl, TensorBoard events, and progress on the terminal."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from tensorboardX import SummaryWriter

from mrcnn_jax.errors import StorageError
from mrcnn_jax.json_files import replace_file

VALIDATION_LOSS = "validation_loss"
"""First part of the names of the terms of the validation loss."""

MIN_LAP_SECONDS = 1.0
"""Shortest time over which a speed is measured."""


class MetricsLog:
    """Writes metrics.jsonl, with one JSON object per logged step, and the same numbers as TensorBoard events.

    Opening it removes what an interrupted run wrote after `start_step`, so that every step occurs once. The validation
    loss of a step has a line of its own.
    """

    def __init__(self, workdir: Path, *, start_step: int, is_evaluated: bool = True) -> None:
        """Opens the files; StorageError if they cannot be written.

        Unless `is_evaluated`, the validation loss of `start_step` is removed, too, since it is computed again.
        """
        self.path = workdir / "metrics.jsonl"
        try:
            _keep_steps_until(self.path, start_step, is_evaluated=is_evaluated)
            self._file = self.path.open("a")
            # Event files cannot be truncated; purge_step makes TensorBoard hide earlier events of this and later steps.
            self._events = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=start_step + 1, filename_suffix=f".from-step-{start_step}"
            )
        except OSError as error:
            raise StorageError(f"{self.path} could not be opened: {error.strerror}.") from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one object. JSON has no NaN or infinity: these become null, and "not_finite" lists their names."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line: dict[str, object] = {"step": step} | {name: finite.get(name) for name in values}
        if len(finite) < len(values):
            line["not_finite"] = [name for name in values if name not in finite]
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for name, value in finite.items():
                self._events.add_scalar(name, value, step)
        except OSError as error:
            raise StorageError(f"{self.path} could not be written: {error.strerror}.") from error

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        self._events.close()


def _keep_steps_until(path: Path, last_step: int, *, is_evaluated: bool) -> None:
    """Removes the lines of later steps, and a last line that a killed process left incomplete."""
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if _step_of(line) <= last_step]
    if not is_evaluated:
        kept = [line for line in kept if _step_of(line) < last_step or f'"{VALIDATION_LOSS}/' not in line]
    replace_file(path, "".join(f"{line}\n" for line in kept).encode())


def read_losses(workdir: Path) -> dict[int, float]:
    """Returns the total loss of each logged step, NaN where any metric was not finite; damaged lines are left out."""
    losses: dict[int, float] = {}
    with suppress(OSError):
        for line in (workdir / "metrics.jsonl").read_text().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                values = json.loads(line)
                losses[int(values["step"])] = math.nan if "not_finite" in values else float(values["loss/total"])
    return losses


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class Stopwatch:
    """Measures the seconds since the start and the speed of the last steps."""

    def __init__(self) -> None:
        self._start = self._lap_start = time.monotonic()
        self._lap_steps = 0
        self._lap_waited = 0.0
        self.steps_per_second = 0.0
        self.waiting_share = 0.0
        """Share of the last lap that was spent waiting for data."""
        self.measured_seconds = self.waited_seconds = 0.0
        """Seconds of all laps but the first, in which data is read without a lead, and the part spent waiting."""

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the start."""
        return time.monotonic() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time inside the context from the speed: that of compiling, evaluating and saving."""
        start = time.monotonic()
        yield
        self._lap_start += time.monotonic() - start

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside the context as waiting for data."""
        start = time.monotonic()
        yield
        self._lap_waited += time.monotonic() - start

    def count_step(self) -> None:
        """Counts a finished step."""
        self._lap_steps += 1

    def lap(self) -> None:
        """Measures the speed since the last lap. A lap that is too short continues, since steps are read in bursts."""
        seconds = max(time.monotonic() - self._lap_start, 1e-3)
        is_first = self.steps_per_second == 0.0
        if seconds >= MIN_LAP_SECONDS or is_first:
            self.steps_per_second = self._lap_steps / seconds
            self.waiting_share = min(self._lap_waited / seconds, 1.0)
            if not is_first:
                self.measured_seconds += seconds
                self.waited_seconds += self._lap_waited
            self._lap_start, self._lap_steps, self._lap_waited = time.monotonic(), 0, 0.0


class ProgressLine:
    """Shows progress: a bar on a terminal, elsewhere a line for every logged step."""

    def __init__(self, num_steps: int, *, stream: TextIO | None = None, is_silent: bool = False) -> None:
        self.num_steps = num_steps
        self._is_silent = is_silent
        self._stream = stream or sys.stdout
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if self._stream.isatty() and not is_silent:
            columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(file=self._stream), transient=True)
            self._task = self._bar.add_task("compiling", total=num_steps)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, step: int, values: Mapping[str, float], seconds_left: float | None) -> None:
        """Shows one logged step; `values` has to contain loss/total, learning_rate and images_per_second."""
        facts = [f"loss {values['loss/total']:.4g}", f"lr {values['learning_rate']:.3g}"]
        if seconds_left is not None:
            facts += [f"{values['images_per_second']:.3g} images/s", f"eta {format_seconds(seconds_left)}"]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, description="  ".join(facts))
        else:
            self.say(f"step {step}/{self.num_steps}  {'  '.join(facts)}")

    def show_evaluation(self, done: int, total: int) -> None:
        """Shows how many images have been evaluated, on a terminal only."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"evaluating {done}/{total}")

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)  # paths are not broken
            return
        if self._is_silent:
            return
        with suppress(OSError):  # the reader of the output has ended (`| head`); training continues
            print(text, file=self._stream, flush=True)


def format_seconds(seconds: float) -> str:
    """Returns hours, minutes and seconds as text: 0:03:12."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}"
