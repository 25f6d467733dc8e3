"""Where the time of a compiled program goes, by part of the model, as JAX's profiler sees it on CPU, GPU or TPU.

An event of the profile names the instruction that it runs, and the program's text says what that instruction is of. An
event inside another one of its thread or stream is counted once, for itself. What runs at the same time on several
threads or streams counts for each, so the sum may exceed the time that a call takes.
"""

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from mrcnn_jax.reporting.program_costs import is_backward, part_of
from mrcnn_jax.reporting.programs import Program

UNKNOWN = "unknown"
"""The part of events whose instruction is not in the program's text."""

Event = tuple[float, float, str]
"""Start and duration in nanoseconds, and the name of the instruction."""


def profile_calls(call: Callable[[], Any], text: str, num_calls: int) -> dict[str, dict[str, float]]:
    """Returns the milliseconds of one call by part, forward and backward, as the mean of `num_calls` profiled ones.

    `call` runs the program whose optimised HLO is `text`; what else it runs is not counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(num_calls):
                jax.block_until_ready(call())
        (path,) = Path(folder).rglob("*.xplane.pb")
        lines = read_lines(path, module_name(text))
    return sum_parts(lines, Program(text), num_calls)


def module_name(text: str) -> str:
    """The name of an HLO module, such as `jit_step`."""
    return text.removeprefix("HloModule ").split(maxsplit=1)[0].rstrip(",")


def read_lines(path: Path, module: str) -> list[list[Event]]:
    """Returns the events of each thread or stream that ran instructions of this HLO module."""
    with warnings.catch_warnings():
        # Of the reader's own types, at their first use; where warnings are errors it would end the process.
        warnings.simplefilter("ignore", DeprecationWarning)
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
        devices = [plane for plane in planes if plane.name.startswith("/device:")]
        return [list(_read_events(line.events, module)) for plane in devices or planes for line in plane.lines]


def _read_events(events: Iterable[Any], module: str) -> Iterator[Event]:
    for event in events:
        stats = dict(event.stats)
        if stats.get("hlo_module") == module and "hlo_op" in stats:
            yield event.start_ns, event.duration_ns, str(stats["hlo_op"])


def sum_parts(lines: Iterable[list[Event]], program: Program, num_calls: int) -> dict[str, dict[str, float]]:
    """Returns milliseconds by part of the model, forward and backward, of one of `num_calls` calls, largest first."""
    owners = {run.instruction.name: (part_of(run), is_backward(run)) for run in program.runs()}
    parts: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
    for line in lines:
        for name, nanoseconds in own_times(line):
            part, backward = owners.get(name, (UNKNOWN, False))
            parts[part]["backward" if backward else "forward"] += nanoseconds / num_calls / 1e6
    return dict(sorted(parts.items(), key=lambda item: -sum(item[1].values())))


def own_times(events: list[Event]) -> Iterator[tuple[str, float]]:
    """Yields each event's instruction and nanoseconds, without those of the events inside of it."""
    open_: list[list[Any]] = []  # name, end, own time
    for start, duration, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while open_ and open_[-1][1] <= start:
            yield open_[-1][0], open_.pop()[2]
        if open_:
            open_[-1][2] -= duration
        open_.append([name, start + duration, duration])
    for name, _, own in open_:
        yield name, own
