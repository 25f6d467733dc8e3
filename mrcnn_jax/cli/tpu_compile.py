"""Compiles a preset's training step and prediction for a TPU slice on a machine without TPUs; prints their costs.

mrcnn tpu-compile mask_rcnn_r50_fpn_1x --topology v5e:16x16 --model.dtype bfloat16
mrcnn tpu-compile mask_rcnn_r50_fpn_1x --topology v4:4x4x4 --task predict --images-per-chip 8

It needs the TPU compiler, `pip install libtpu`. The printed JSON contains the bytes on a chip and their share of its
memory, every collective, and the compiler's own estimate of cycles by part of the model. Nothing is run or allocated.
A training step takes ten minutes to an hour to compile. The command ends with 4 if a program does not fit into the
chip's memory.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.abstract_jobs import JOBS, NUM_CLASSES, Job, count_bytes
from mrcnn_jax.config import SIZE_DIVISOR, Canvas, Config
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.profiling.costs import summarise_program

DOES_NOT_FIT = 4
"""Exit code if a program does not fit into the memory of the device."""
MEMORY_GIB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
"""HBM of a chip (cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e, "System architecture"). The compiler reserves a
little of it."""
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is opened, so processes do not interfere
}
"""Environment variables that libtpu needs on a machine without a TPU."""


@dataclass(frozen=True)
class Arguments:
    """The programs to compile, and the slice."""

    config: command_line.Inline[Config]
    canvas: Canvas
    """Padded size of the network input."""
    topology: str = command_line.Required
    """Kind and shape of the slice, such as v5e:16x16 for 256 chips; kinds are v4, v5e, v5p and v6e."""
    images_per_chip: int = 4
    """Images per batch on each chip."""
    task: Literal["train", "predict", "both"] = "both"
    """Program to compile: the training step, batch inference, or both."""
    top: int = 20
    """Number of the most expensive instructions, and of the largest without an estimate, to list."""
    loop_trips: int = 1
    """Assumed number of iterations of loops with a data-dependent trip count, such as those of NMS."""
    programs: Path | None = None
    """Folder for the optimised HLO of each task, TASK.txt."""


def main() -> int:
    """Compiles the programs and prints the report."""
    preset, arguments = read_arguments()
    # Nothing runs. Without this, JAX would look for a TPU, because libtpu is installed.
    jax.config.update("jax_platforms", "cpu")
    mesh, memory = make_abstract_slice(arguments.topology)
    config = arguments.config
    num_classes = config.model.num_classes or NUM_CLASSES
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=num_classes))
    global_batch = arguments.images_per_chip * mesh.size
    tasks = JOBS if arguments.task == "both" else (arguments.task,)
    results = {}
    for task in tasks:
        command_line.note(f"{task}: tracing")
        job = JOBS[task](config, mesh, arguments.canvas, global_batch)
        results[task] = compile_job(task, job, memory, arguments)
    print(
        json.dumps(
            {
                "preset": Path(preset).stem,
                "topology": arguments.topology,
                "chips": mesh.size,
                "images_per_chip": arguments.images_per_chip,
                "global_batch": global_batch,
                "canvas": "x".join(map(str, arguments.canvas)),
                "dtype": config.model.dtype,
                "chip_memory_bytes": memory,
                "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "libtpu")},
                "tasks": results,
            },
            indent=2,
        )
    )
    return 0 if all(result["fits"] for result in results.values()) else DOES_NOT_FIT


def read_arguments() -> tuple[str, Arguments]:
    """Returns preset path and options; ConfigError if one of them is invalid or the compiler is missing."""
    config, options = command_line.split_preset()
    defaults = Arguments(config, config.data.canvases[0])
    arguments = command_line.parse(
        defaults,
        "Compiles a training step and batch inference for a TPU slice on a machine without TPUs; prints JSON. Ends "
        f"with {DOES_NOT_FIT} if one of them does not fit into the chip's memory. Needs `pip install libtpu`.",
        options,
        usage="PRESET",
    )
    if min(arguments.images_per_chip, arguments.top, arguments.loop_trips) < 1:
        raise ConfigError("--images-per-chip, --top and --loop-trips: expected 1 or more.")
    if min(arguments.canvas) < 1 or any(side % SIZE_DIVISOR for side in arguments.canvas):
        raise ConfigError(f"--canvas: expected sides that are multiples of {SIZE_DIVISOR}, got {arguments.canvas}.")
    if arguments.topology.partition(":")[0] not in MEMORY_GIB:
        raise ConfigError(f"--topology: expected one of {', '.join(MEMORY_GIB)} and a shape, as in v5e:16x16.")
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("The TPU compiler is missing. Install it with: pip install libtpu (0.0.52 for jax 0.10.2).")
    return sys.argv[1], arguments


def make_abstract_slice(topology: str) -> tuple[Mesh, int]:
    """Returns a mesh over the chips of a slice, and the memory of each chip in bytes."""
    os.environ.update(ENVIRONMENT)
    kind = topology.partition(":")[0]
    # Both cores of a v4 are one device, as for JAX on a v4 slice. This is the default of v5p; others have one core.
    options = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"--topology {topology}: {str(error).splitlines()[0]}") from error
    return make_mesh(devices), MEMORY_GIB[kind] * 2**30


def compile_job(task: str, job: Job, memory: int, arguments: Arguments) -> dict[str, Any]:
    """Compiles the program of a task and returns its part of the report."""
    start = time.perf_counter()
    lowered = job.function.lower(*job.arguments)
    command_line.note(f"{task}: compiling for {arguments.topology}")
    traced = time.perf_counter()
    try:
        compiled, text = compile_program(lowered)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, "refusal": str(error).splitlines()[0], "bytes_wanted": bytes_wanted(str(error))}
    seconds = {"trace_seconds": traced - start, "compile_seconds": time.perf_counter() - traced}
    command_line.note(f"{task}: compiled in {seconds['compile_seconds']:.0f} s")
    if arguments.programs is not None:
        arguments.programs.mkdir(parents=True, exist_ok=True)
        (arguments.programs / f"{task}.txt").write_text(text)
    sizes, costs = count_bytes(compiled), compiled.cost_analysis()
    needed = max(sizes["total"], sizes["peak"])
    return {
        "fits": needed <= memory,
        "bytes_per_chip": sizes,
        "share_of_memory": round(needed / memory, 4),
        **{name: round(value, 1) for name, value in seconds.items()},
        "flops": costs["flops"],
        "bytes_accessed": costs["bytes accessed"],
        **summarise_program(text, arguments.loop_trips, arguments.top),
    }


def compile_program(lowered: Any) -> tuple[Any, str]:
    """Compiles a lowered program and returns it with its optimised HLO.

    The TPU compiler writes the text, because `as_text` of jax 0.10.2 rejects the sparse-core parts of v5p and v6e.
    """
    with tempfile.TemporaryDirectory() as folder:
        compiled = lowered.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        written = [file.read_text() for file in Path(folder).glob("*.after_codegen.txt")]
        return compiled, written[0] if written else compiled.as_text()


def bytes_wanted(refusal: str) -> int | None:
    """Returns the bytes that a program needs, from `... (27.97G) exceeds available HBM` or `Used 27.97G of`."""
    match = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds|Used ([\d.]+)([KMGT]?) of", refusal)
    if match is None:
        return None
    number, unit = [group for group in match.groups() if group is not None]
    return int(float(number) * 2 ** (10 * " KMGT".index(unit or " ")))
