"""Shared parts of commands that use a weights folder: its test settings as defaults of `--test.*`, and progress."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from mrcnn_jax.cli import command_line
from mrcnn_jax.config import TestConfig
from mrcnn_jax.run_folder import check_source, describe_source
from mrcnn_jax.weights.folder import read_test_config


def default_test_config(argv: list[str] | None = None) -> TestConfig:
    """Returns the test settings of the folder that `--weights` names on the command line, or the general defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--weights", default=None)
    try:
        known, _ = parser.parse_known_args(argv)
    except argparse.ArgumentError:  # --weights without a folder: parsing the whole command line reports it
        return TestConfig()
    return TestConfig() if known.weights is None else read_test_config(known.weights)


def note_source(weights: Path) -> None:
    """Prints on stderr which weights are used, of which step, and what of the workdir is of another step."""
    command_line.note(" ".join([f"Weights: {describe_source(weights)}.", check_source(weights)]).strip())


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
