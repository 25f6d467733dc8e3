"""Progress of a long command on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

LINE_SECONDS = 60.0
"""Longest time between two lines, where there is no terminal and something is done."""


@contextmanager
def show_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (done, total) that shows both, the rate and the time that is left.

    It moves a bar on a terminal; elsewhere, it prints a line at every tenth and every minute. What is done at the first
    call is no part of the rate, so that a continued command states its own.
    """
    if not sys.stderr.isatty():
        yield _LinePrinter(label)
        return
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), _RateColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _LinePrinter:
    def __init__(self, label: str) -> None:
        self._label = label
        self._tenth = -1
        self._last: tuple[float, int] | None = None  # time and number done of the last line

    def __call__(self, done: int, total: int) -> None:
        now, tenth = time.monotonic(), 10 * done // max(total, 1)
        is_due = self._last is not None and now - self._last[0] >= LINE_SECONDS and done > self._last[1]
        if tenth <= self._tenth and not is_due:
            return
        pace = "" if self._last is None else describe_pace(done - self._last[1], now - self._last[0], total - done)
        print(f"{self._label} {done}/{total}{pace}", file=sys.stderr, flush=True)
        self._tenth, self._last = tenth, (now, done)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s")


def describe_pace(done: int, seconds: float, left: int) -> str:
    """Returns the rate and the time for what is left, such as `, 35.2 per s, 3 min left`; "" if nothing was done."""
    if done <= 0 or seconds <= 0:
        return ""
    left_seconds = left * seconds / done
    left_text = f"{left_seconds:.0f} s" if left_seconds < 100 else f"{left_seconds / 60:.0f} min"
    return f", {done / seconds:.3g} per s" + (f", {left_text} left" if left else "")
