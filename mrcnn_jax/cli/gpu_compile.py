"""Compiles a preset's training step and prediction for NVIDIA GPUs on a machine without one; prints their costs.

mrcnn gpu-compile mask_rcnn_r50_fpn_1x --gpu h100 --gpus 8 --model.dtype bfloat16
mrcnn gpu-compile mask_rcnn_r50_fpn_1x --gpu a100-40gb --task predict --images-per-gpu 16

It needs XLA's compiler for GPUs, but no driver: for jax 0.10.2, `pip install --no-deps jax-cuda13-plugin==0.10.2
jax-cuda13-pjrt==0.10.2` and `pip install nvidia-cuda-nvcc nvidia-nvvm`. The printed JSON contains the bytes on a GPU
and their share of its memory; kernels, library calls and copies inside and outside of CUDA graphs; loops that wait for
the host; scatters by their way of adding; sorts; collectives; and lower bounds of the time by part of the model.
Nothing is run. A step takes two to five minutes to compile. The command ends with 4 if a program does not fit.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
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
from mrcnn_jax.profiling.gpu_programs import read_dump, summarise_gpu_program
from mrcnn_jax.profiling.gpus import GPUS, Gpu

DOES_NOT_FIT = 4
"""Exit code if a program does not fit into the memory of the device."""
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
FLAGS = {"xla_gpu_enable_triton_gemm": False}
"""Compiler flags besides those in XLA_FLAGS. Without a GPU, the compiler cannot try Triton's variants of a product, and
the first of them may not compile."""


@dataclass(frozen=True)
class Arguments:
    """The programs to compile, and the GPUs."""

    config: command_line.Inline[Config]
    canvas: Canvas
    """Padded size of the network input."""
    gpu: Literal["a100-40gb", "a100-80gb", "h100", "h200", "l4", "rtx4090", "t4"] = "h100"
    """Kind of GPU."""
    gpus: int = 1
    """Number of GPUs, all on one machine, that run the program together."""
    images_per_gpu: int = 8
    """Images per batch on each GPU."""
    task: Literal["train", "predict", "both"] = "both"
    """Program to compile: the training step, batch inference, or both."""
    memory_fraction: float = 0.75
    """Share of a GPU's memory that JAX uses; when programs run, XLA_PYTHON_CLIENT_MEM_FRACTION sets it."""
    top: int = 20
    """Number of the most expensive instructions to list."""
    loop_trips: int = 1
    """Assumed number of iterations of loops with a data-dependent trip count, such as those of NMS."""
    programs: Path | None = None
    """Folder for the files that the compiler writes for each task: HLO, PTX and the sequence of launches."""


def main() -> int:
    """Compiles the programs and prints the report."""
    preset, arguments = read_arguments()
    # Nothing runs, so JAX need not look for a driver.
    jax.config.update("jax_platforms", "cpu")
    gpu = GPUS[arguments.gpu]
    mesh = make_abstract_gpus(gpu, arguments.gpus)
    config = arguments.config
    num_classes = config.model.num_classes or NUM_CLASSES
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=num_classes))
    tasks = JOBS if arguments.task == "both" else (arguments.task,)
    results = {}
    for task in tasks:
        command_line.note(f"{task}: tracing")
        job = JOBS[task](config, mesh, arguments.canvas, arguments.images_per_gpu * mesh.size)
        results[task] = compile_job(task, job, gpu, arguments)
    report = {
        "preset": Path(preset).stem,
        "gpu": gpu.name,
        "gpus": mesh.size,
        "images_per_gpu": arguments.images_per_gpu,
        "global_batch": arguments.images_per_gpu * mesh.size,
        "canvas": "x".join(map(str, arguments.canvas)),
        "dtype": config.model.dtype,
        "gpu_memory_bytes": gpu.memory,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        "tasks": results,
    }
    print(json.dumps(report, indent=2))
    return 0 if all(result["fits"] for result in results.values()) else DOES_NOT_FIT


def read_arguments() -> tuple[str, Arguments]:
    """Returns preset path and options; ConfigError if one of them is invalid or the compiler is missing."""
    config, options = command_line.split_preset()
    arguments = command_line.parse(
        Arguments(config, config.data.canvases[0]),
        "Compiles a training step and batch inference for NVIDIA GPUs on a machine without one; prints JSON. Ends "
        f"with {DOES_NOT_FIT} if one of them does not fit. Needs the compiler: pip install --no-deps "
        "jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2 and pip install nvidia-cuda-nvcc nvidia-nvvm.",
        options,
        usage="PRESET",
    )
    if min(arguments.images_per_gpu, arguments.gpus, arguments.top, arguments.loop_trips) < 1:
        raise ConfigError("--images-per-gpu, --gpus, --top and --loop-trips: expected 1 or more.")
    if not 0 < arguments.memory_fraction <= 1:
        raise ConfigError(f"--memory-fraction: expected a value above 0, up to 1, got {arguments.memory_fraction}.")
    if min(arguments.canvas) < 1 or any(side % SIZE_DIVISOR for side in arguments.canvas):
        raise ConfigError(f"--canvas: expected sides that are multiples of {SIZE_DIVISOR}, got {arguments.canvas}.")
    if not any(map(importlib.util.find_spec, PLUGINS)):
        version = importlib.metadata.version("jax")
        raise ConfigError(
            f"The GPU compiler is missing. Install it with: pip install --no-deps jax-cuda13-plugin=={version} "
            f"jax-cuda13-pjrt=={version}; pip install nvidia-cuda-nvcc nvidia-nvvm."
        )
    return sys.argv[1], arguments


def make_abstract_gpus(gpu: Gpu, count: int) -> Mesh:
    """Returns a mesh over GPUs of one machine, which need not exist."""
    # Numbers of partitions, hosts per partition and GPUs per host.
    topology = topologies.get_topology_desc(platform="cuda", topology=f"1x1x{count}", target_config=gpu.make_target())
    return make_mesh(topology.devices)


def compile_job(task: str, job: Job, gpu: Gpu, arguments: Arguments) -> dict[str, Any]:
    """Compiles the program of a task and returns its part of the report."""
    start = time.perf_counter()
    lowered = job.function.lower(*job.arguments)
    command_line.note(f"{task}: compiling for {arguments.gpus} {gpu.name}")
    traced = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.programs is not None:
            folder = arguments.programs / task
            folder.mkdir(parents=True, exist_ok=True)
        options = FLAGS | {
            "xla_gpu_collect_cost_model_stats": gpu.is_modelled,
            "xla_dump_to": str(folder),
            "xla_dump_hlo_as_text": True,
        }
        compiled = lowered.compile(compiler_options=options)
        compile_seconds = time.perf_counter() - traced
        command_line.note(f"{task}: compiled in {compile_seconds:.0f} s")
        described = summarise_gpu_program(read_dump(folder), gpu, arguments.loop_trips, arguments.top)
    sizes = count_bytes(compiled)
    needed = max(sizes["total"], sizes["peak"])
    return {
        "fits": needed <= arguments.memory_fraction * gpu.memory,
        "bytes_per_gpu": sizes,
        "share_of_memory": round(needed / gpu.memory, 4),
        "trace_seconds": round(traced - start, 1),
        "compile_seconds": round(compile_seconds, 1),
        **described,
    }
