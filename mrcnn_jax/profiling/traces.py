"""Time of a compiled program by part of the model, measured with JAX's profiler on CPU, GPU or TPU.

Each event of a profile names an instruction, and the program's text maps the instruction to a part. The time of an
event inside another one of the same thread or stream counts only for the inner event. Concurrent work on several
threads or streams counts for each of them, so the sum may exceed the duration of a call.

The formats of GPU and TPU profiles are implemented from descriptions by others; only the CPU's has been tested.
"""

import re
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from mrcnn_jax.profiling.costs import is_backward, part_of
from mrcnn_jax.profiling.hlo import Program

UNKNOWN = "unknown"
"""Part of events with an instruction that is not in the program's text, such as a GPU's command buffers."""

Event = tuple[float, float, str]
"""Start and duration in nanoseconds, and the name of the instruction."""
Profile = dict[str, list[list[Event]]]
"""Events of each thread or stream, by device."""


def profile_calls(call: Callable[[], Any], text: str, num_calls: int) -> dict[str, dict[str, float]]:
    """Returns the milliseconds of a call by part, forward and backward, as mean of `num_calls` calls and the devices.

    `call` runs the program with the optimised HLO `text`; other programs that it runs are not counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(num_calls):
                jax.block_until_ready(call())
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = read_profile(path.read_bytes(), module_name(text))
    return sum_parts(profile, Program(text), num_calls)


def module_name(text: str) -> str:
    """Returns the name of an HLO module, such as `jit_step`."""
    return text.removeprefix("HloModule ").split(maxsplit=1)[0].rstrip(",")


def read_profile(content: bytes, module: str) -> Profile:
    """Returns the events of an HLO module in a profiler file, by device."""
    with warnings.catch_warnings():
        # The reader's own types warn at first use, which would end a process that turns warnings into errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        planes = list(jax.profiler.ProfileData.from_serialized_xspace(content).planes)
        devices = _read_planes(planes, {"GPU": _read_gpu, "TPU": _read_tpu}, module)
        return devices or _read_planes(planes, {"host": _read_host}, module)  # with devices, the host only starts them


def _read_planes(planes: list[Any], readers: dict[str, Callable[..., Any]], module: str) -> Profile:
    """Returns the events of planes that have a reader, which is chosen by a word in the plane's name."""
    profile: Profile = defaultdict(list)
    for plane in planes:
        for kind, read in readers.items():
            for device, events in read(plane, module) if kind in plane.name else ():
                if events:
                    profile[device].append(events)
    return profile


def _read_host(plane: Any, module: str) -> Iterator[tuple[str, list[Event]]]:
    """Yields the events of a CPU, on which a thread may work for several simulated devices in turn."""
    for line in plane.lines:
        by_device: dict[str, list[Event]] = defaultdict(list)
        for event, stats in _events_of(line, module):
            by_device[f"host {stats.get('device_ordinal', 0)}"].append(event)
        yield from by_device.items()


def _read_gpu(plane: Any, module: str) -> Iterator[tuple[str, list[Event]]]:
    for line in plane.lines:
        if line.name.startswith("Stream"):  # other lines are derived from these
            yield plane.name, [event for event, _ in _events_of(line, module)]


def _events_of(line: Any, module: str) -> Iterator[tuple[Event, dict[str, Any]]]:
    for event in line.events:
        stats = dict(event.stats)
        if stats.get("hlo_module") == module and "hlo_op" in stats:
            yield (event.start_ns, event.duration_ns, str(stats["hlo_op"])), stats


def _read_tpu(plane: Any, module: str) -> Iterator[tuple[str, list[Event]]]:
    """Yields the events of a TPU. Their names are whole instructions, and another line lists the runs of programs."""
    lines = {line.name: list(line.events) for line in plane.lines}
    runs = [event for event in lines.get("XLA Modules", []) if event.name.split("(", 1)[0] == module]
    spans = [(run.start_ns, run.start_ns + run.duration_ns) for run in runs]
    events = []
    for event in lines.get("XLA Ops", []):
        name = re.match(r"%?([\w.-]+)", event.name)
        if name and any(start <= event.start_ns < end for start, end in spans):
            events.append((event.start_ns, event.duration_ns, name[1]))
    yield plane.name, events


def sum_parts(profile: Profile, program: Program, num_calls: int) -> dict[str, dict[str, float]]:
    """Returns the mean milliseconds of `num_calls` calls by part, forward and backward, largest part first."""
    owners = {run.instruction.name: (part_of(run), is_backward(run)) for run in program.runs()}
    milliseconds = 1e-6 / num_calls / max(len(profile), 1)
    parts: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
    for lines in profile.values():
        for name, nanoseconds in (own for line in lines for own in own_times(line)):
            part, backward = owners.get(name, (UNKNOWN, False))
            parts[part]["backward" if backward else "forward"] += nanoseconds * milliseconds
    return dict(sorted(parts.items(), key=lambda item: -sum(item[1].values())))


def own_times(events: Iterable[Event]) -> Iterator[tuple[str, float]]:
    """Yields each event's instruction and nanoseconds, without those of the events inside it.

    Events that overlap without nesting, such as those of concurrent kernels, count in full.
    """
    around: list[list[Any]] = []  # name, end and own time of the events that have not ended
    for start, duration, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while around and around[-1][1] < start + duration:
            outer, _, own = around.pop()
            yield outer, max(own, 0.0)
        if around:
            around[-1][2] -= duration
        around.append([name, start + duration, duration])
    for name, _, own in around:
        yield name, max(own, 0.0)
