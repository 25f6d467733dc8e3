"""Measures a machine's accelerators in one command: correctness, speed, memory and learning.

python scripts/accelerator_report.py --to reports/h100
python scripts/accelerator_report.py --to reports/cpu --small          # a trial of all parts at small size

The most valuable parts come first. Each runs in its own process, and its result is written before the next one starts:
DIR/PART.json and DIR/PART.log, and DIR/report.json and DIR/report.md of all parts so far. Parts that have a result are
not run again, so that the same command continues where it was stopped. It ends with 0, or with 6 if a part failed or
the time was up before a part.
"""

import _checkout  # isort: skip

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mrcnn_jax.cli import command_line
from mrcnn_jax.errors import ConfigError, DeviceError

SCRIPTS = _checkout.ROOT / "scripts"
R50 = "configs/mask_rcnn_r50_fpn_1x.py"
FULL_PRECISION = {"NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
"""Environment variables with which GPUs multiply float32 as float32."""
LOOPS_ON_HOST = "--xla_gpu_enable_command_buffer=+FUSION"
"""XLA's default. As the flag is set, `known_faults` does not put loops into CUDA graphs."""


@dataclass(frozen=True)
class Arguments:
    to: Path = command_line.Required
    """Folder for the results."""
    small: bool = False
    """Try every part with small networks and images; the figures are meaningless."""
    only: str = ""
    """Comma-separated names of the parts to run; all by default."""
    torch_python: str = sys.executable if importlib.util.find_spec("torchvision") else ""
    """Python with torch and torchvision, to time torchvision's Mask R-CNN, too; by default this one, if it has them."""
    nuclei: Path | None = None
    """Folder of prepared nuclei with train and val to train on; by default, shapes are generated."""
    part_seconds: int = 240
    """Seconds after which a part is ended."""
    seconds: int = 600
    """Seconds for all parts together; parts that are not reached are reported."""


@dataclass(frozen=True)
class Part:
    """One command, and how its output is read."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    read: Callable[[str], Any] = json.loads


class Outcome(NamedTuple):
    """The outcome of a part."""

    seconds: float
    error: str
    """Error message, empty if there was no error."""
    result: Any


def main() -> None:
    arguments = command_line.parse(Arguments(), __doc__ or "")
    parts = make_parts(arguments)
    names = [name for name in arguments.only.split(",") if name] or list(parts)
    unknown = [name for name in names if name not in parts]
    if unknown:
        raise ConfigError(f"--only: there is no part {unknown[0]}; choose from {', '.join(parts)}.")
    wanted = {name: parts[name] for name in names}
    run_parts(wanted, arguments.to, arguments.part_seconds, arguments.seconds)
    print(f"Report: {arguments.to / 'report.md'}")
    missing = [name for name in names if not (arguments.to / f"{name}.json").exists()]
    failed = [name for name in names if name not in missing and read_outcome(arguments.to, name).error]
    if failed:
        raise DeviceError(f"Failed: {', '.join(failed)}. See {arguments.to / failed[0]}.log.")
    if missing:
        raise DeviceError(f"The {arguments.seconds} s were up before {', '.join(missing)}. Run the command again.")


def run_parts(parts: dict[str, Part], folder: Path, part_seconds: int, seconds: int) -> None:
    """Runs the parts that have no result yet, one after the other, until the time is up."""
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    for name, part in parts.items():
        left = end - time.monotonic()
        if not (folder / f"{name}.json").exists() and left > 0:
            command_line.note(f"{name}: {' '.join(part.command[1:])}")
            outcome = run_part(part, folder / f"{name}.log", min(part_seconds, left))
            if outcome.error and end < time.monotonic():
                continue  # its time was cut short, so the next call runs it again
            keep(folder, name, outcome)
        write_report(folder, list(parts))


def make_parts(arguments: Arguments) -> dict[str, Part]:
    """Returns all parts by name, the most valuable first."""
    small = arguments.small
    canvas = "128x128" if small else "800x1344"
    tiny = (
        ["--model.backbone", "resnet10", "--model.backbone-width", "16", "--model.fpn-channels", "32"] if small else []
    )
    few = ["--iterations", "2"] if small else []

    def script(name: str, *options: str, **environment: str) -> Part:
        return Part([sys.executable, str(SCRIPTS / name), *options], environment)

    def benchmark(task: str, batch_size: int, *options: str) -> Part:
        sizes = ["--canvas", canvas, "--batch-size", str(batch_size), "--model.dtype", "bfloat16"]
        return script("benchmark.py", task, R50, *sizes, "--profile", "3", *few, *tiny, *options)

    ops = ["--canvas", canvas, "--dtype", "bfloat16", *few]
    parts = {
        "ops": script("benchmark_ops.py", *ops),
        "check_machine": script("check_machine.py", "--json", *(["--quick"] if small else [])),
        "train": benchmark("train", 2 if small else 8),
        "infer": benchmark("infer", 2 if small else 8),
        "infer_one": benchmark("infer", 1),
        "nms_on_host": script("benchmark_ops.py", *ops, "--only", "nms", XLA_FLAGS=LOOPS_ON_HOST),
        "golden": golden_part(small),
        "bfloat16": script("_bfloat16.py", R50, "--canvas", canvas, *tiny),
        "learn": learning_part(arguments),
    }
    if arguments.torch_python:
        command = [arguments.torch_python, str(SCRIPTS / "_torchvision.py"), "--canvas", canvas]
        parts["torchvision"] = Part([*command, *(["--small"] if small else [])])
    return parts


def golden_part(small: bool) -> Part:
    """Returns the part that compares our models with outputs of the originals, on this device instead of a CPU."""
    tests = "tests/weights/test_golden.py"
    names = ["-k", "torchvision_maskrcnn_resnet50_fpn and not v2"] if small else []
    environment = {"FLAGS_OF_USERS": "1", **FULL_PRECISION}
    if "JAX_PLATFORMS" not in os.environ:
        environment["JAX_PLATFORMS"] = ""
    return Part([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, *names], environment, last_line)


def learning_part(arguments: Arguments) -> Part:
    """Returns the part that trains briefly and reports the scores."""
    preset, data = (
        ("nuclei_r18_fpn", arguments.nuclei) if arguments.nuclei else ("shapes_tiny", arguments.to / "shapes")
    )
    few = ["--train.num-steps", "4", "--train.warmup-steps", "0"] if arguments.small else []
    where = [str(data.resolve()), str((arguments.to / "learn").resolve())]  # parts run in the project's folder
    return Part([sys.executable, str(SCRIPTS / "_learn.py"), f"configs/{preset}.py", *where, *few])


def last_line(output: str) -> dict[str, str]:
    """Returns pytest's summary line."""
    return {"summary": output.strip().splitlines()[-1].strip("= ")}


def run_part(part: Part, log: Path, seconds: float) -> Outcome:
    """Runs a part's command, with stderr going to the log."""
    start = time.perf_counter()
    environment = {name: value for name, value in (os.environ | part.environment).items() if value}
    with log.open("w") as file:
        try:
            done = subprocess.run(
                part.command,
                cwd=_checkout.ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return Outcome(time.perf_counter() - start, f"ended after {seconds:.0f} s", None)
    taken = time.perf_counter() - start
    error = f"exit code {done.returncode}" if done.returncode else ""
    try:
        return Outcome(taken, error, part.read(done.stdout))
    except (ValueError, IndexError):
        with log.open("a") as file:
            file.write(done.stdout)
        return Outcome(taken, error or "no result in its output", None)


def keep(folder: Path, name: str, outcome: Outcome) -> None:
    """Writes a part's outcome atomically."""
    unfinished = folder / f"{name}.new"
    unfinished.write_text(json.dumps(outcome._asdict(), indent=2))
    unfinished.replace(folder / f"{name}.json")


def read_outcome(folder: Path, name: str) -> Outcome:
    return Outcome(**json.loads((folder / f"{name}.json").read_text()))


def write_report(folder: Path, names: list[str]) -> None:
    """Writes the outcomes of all parts so far as one JSON file and as tables."""
    outcomes = {name: read_outcome(folder, name) for name in names if (folder / f"{name}.json").exists()}
    report = {name: outcome._asdict() for name, outcome in outcomes.items()}
    (folder / "report.json").write_text(json.dumps(report, indent=2))
    total = sum(outcome.seconds for outcome in outcomes.values())
    lines = [
        f"{len(outcomes)} of {len(names)} parts in {total:.0f} s.\n",
        "| part | seconds | result |",
        "|---|---|---|",
        *(
            f"| {name} | {each.seconds:.0f} | {each.error or summarise(name, each.result)} |"
            for name, each in outcomes.items()
        ),
    ]
    for name, outcome in outcomes.items():
        lines += tabulate(name, outcome.result) if not outcome.error else []
    (folder / "report.md").write_text("\n".join(lines) + "\n")


def summarise(name: str, result: Any) -> str:
    """Returns a part's result in a few words."""
    match name:
        case "check_machine":
            wrong = [finding["check"] for finding in result["findings"] if not finding["passed"]]
            return f"{len(result['findings'])} checks, wrong: {', '.join(wrong) or 'none'}"
        case "train" | "infer" | "infer_one":
            share = result["share_of_peak_flops"]
            used = "" if share is None else f", {share:.0%} of the peak"
            memory = result["peak_device_mib"] or result["peak_rss_mib"]
            return (
                f"{result['median_ms']:.1f} ms a batch of {result['batch_size']}, {memory} MiB, "
                f"compiled in {result['compile_seconds']:.0f} s{used}"
            )
        case "golden":
            return result["summary"]
        case "learn":
            return f"mask AP {result['segm']['AP']:.3f}, AP50 {result['segm']['AP50']:.3f} after {result['step']} steps"
        case "ops":
            device, times = result["device"], result["operations"]
            forward, backward = (times[f"roi_align_box{way}"]["median_ms"] for way in ("", "_gradients"))
            machine = f"{device['count']} x {device['kind']}, jaxlib {result['versions']['jaxlib']}"
            return f"{machine}; RoIAlign's scatter-adds take {backward / forward:.1f} times its gathers"
        case "nms_on_host":
            return "NMS with loops that wait for the host, XLA's default"
        case _:
            return ", ".join(f"{key} {value}" for key, value in result.items() if isinstance(value, int | float | str))


def tabulate(name: str, result: Any) -> list[str]:
    """Returns the lines of a part's table, if it has one."""
    if name in ("ops", "nms_on_host"):
        rows = [f"| {op} | {times['median_ms']:.3f} |" for op, times in result["operations"].items()]
        return ["", f"| {name}: operation | ms |", "|---|---|", *rows]
    if "ms_by_part" in (result or {}):
        rows = [
            f"| {part} | {ways.get('forward', 0):.2f} | {ways.get('backward', 0):.2f} |"
            for part, ways in result["ms_by_part"].items()
        ]
        return ["", f"| {name}: ms of | forward | backward |", "|---|---|---|", *rows]
    return []


if __name__ == "__main__":
    _checkout.run_main(main, __file__)
