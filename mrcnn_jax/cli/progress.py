"""Progress of commands: a bar on a terminal, lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn


@contextmanager
def show_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (done, total) that moves a bar on a terminal and elsewhere prints a line at every tenth."""
    if not sys.stderr.isatty():
        shown = -1

        def print_line(done: int, total: int) -> None:
            nonlocal shown
            tenth = 10 * done // max(total, 1)
            if tenth > shown:
                print(f"{label} {done}/{total}", file=sys.stderr, flush=True)
                shown = tenth

        yield print_line
        return
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
