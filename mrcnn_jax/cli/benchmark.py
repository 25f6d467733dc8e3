"""Measures speed and memory of inference or of a training step on random images; prints JSON. Needs no data.

mrcnn benchmark infer --canvas 800x1344 --batch-size 1
mrcnn benchmark train mask_rcnn_r50_fpn_1x --batch-size 2 --model.dtype bfloat16
"""

import dataclasses
import importlib.metadata
import itertools
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrcnn_jax import command_names
from mrcnn_jax.cli import command_line
from mrcnn_jax.config import SIZE_DIVISOR, Canvas, Config
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.heap import trim_heap
from mrcnn_jax.inference.augmentation import without_augmentation
from mrcnn_jax.inference.prediction_program import make_prediction_program
from mrcnn_jax.mesh import batch_sharding, make_mesh, replicated
from mrcnn_jax.models.mask_rcnn import MaskRCNN, init_variables
from mrcnn_jax.named_leaves import named_leaves, replace_leaves
from mrcnn_jax.presets import load_preset
from mrcnn_jax.profiling.gpus import GPUS
from mrcnn_jax.profiling.traces import UNKNOWN, profile_calls
from mrcnn_jax.structures import Batch, GroundTruth
from mrcnn_jax.training.step import Metrics
from mrcnn_jax.training.training_program import make_training_program

DEFAULT_PRESET = "mask_rcnn_r50_fpn_1x"
TRAIN_BATCH_SIZE = 2
NUM_OBJECTS = 7
"""Objects per synthetic training image, COCO's mean."""
NOTEWORTHY = 0.05
"""Share of unnamed instructions in a profile above which a note is printed."""
NUM_CLASSES = 80
"""Number of classes for presets that take it from the data."""


@dataclass(frozen=True)
class Arguments:
    canvas: Canvas
    """Padded size of the network input."""
    batch_size: int
    """Images per call; for training, over all devices."""
    iterations: int = 10
    """Number of timed calls, after an untimed one."""
    profile: int = 0
    """Number of further calls under JAX's profiler, to report milliseconds by part of the model."""
    config: command_line.Inline[Config] = field(default_factory=Config)


@dataclass(frozen=True)
class TimedProgram:
    """A program that is ready to be timed."""

    compiled: Any
    compile_seconds: float
    """Seconds to trace and compile the program."""
    flops: float | None
    """Additions and multiplications of a call, counted by XLA before optimisation with loops once; None if unknown."""
    call: Callable[[], Any]
    """Runs the program once and returns arrays that are ready when it has finished."""
    facts: Callable[[], dict[str, Any]]
    """Returns facts about the last result."""


def main() -> None:
    task, preset, arguments = read_arguments()
    config, canvas = arguments.config, arguments.canvas
    num_classes = config.model.num_classes or NUM_CLASSES
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=num_classes))
    prepare = prepare_inference if task == "infer" else prepare_training
    program = prepare(config, canvas, arguments.batch_size)
    timed(program.call)
    seconds = [timed(program.call)[0] for _ in range(arguments.iterations)]
    report = make_report(task, preset, config, canvas, arguments.batch_size, program, seconds)
    if arguments.profile:
        report["ms_by_part"] = profile_parts(program, arguments.profile)
    print(json.dumps(report, indent=2))


def read_arguments() -> tuple[str, str, Arguments]:
    """Returns task, preset path and options; ConfigError if one of them is invalid."""
    argv = sys.argv[1:]
    positional = list(itertools.takewhile(lambda argument: not argument.startswith("-"), argv))
    task, preset = [*positional, "", ""][:2]
    if "-h" in argv or "--help" in argv:
        task = task or "infer"
    if task not in ("infer", "train") or len(positional) > 2:
        raise ConfigError(f"Expected: {command_names.current()} infer|train [PRESET] [options]. See --help.")
    preset = preset or DEFAULT_PRESET
    config = load_preset(preset)
    defaults = (
        Arguments(config.test.canvases[0], config.test.batch_size, config=config)
        if task == "infer"
        else Arguments(config.data.canvases[0], TRAIN_BATCH_SIZE, config=config)
    )
    arguments = command_line.parse(
        defaults,
        "Times inference or a training step on random images with random weights; prints JSON.",
        argv[len(positional) :],
        usage=f"{task} [PRESET]",
    )
    check_sizes(arguments.canvas, arguments.batch_size, arguments.iterations)
    if arguments.profile < 0:
        raise ConfigError("--profile: expected 0 or more.")
    return task, preset, arguments


def check_sizes(canvas: Canvas, batch_size: int, iterations: int) -> None:
    """Raises ConfigError for sizes that cannot be timed."""
    if min(iterations, batch_size) < 1:
        raise ConfigError("--iterations and --batch-size: expected 1 or more.")
    if min(canvas) < 1 or any(side % SIZE_DIVISOR for side in canvas):
        raise ConfigError(f"--canvas: expected sides that are multiples of {SIZE_DIVISOR}, got {canvas}.")


def prepare_inference(config: Config, canvas: Canvas, batch_size: int) -> TimedProgram:
    """Compiles `predict` for one device."""
    # Random weights give low scores. Without a threshold, all detection slots are filled, as for a busy image.
    test = dataclasses.replace(without_augmentation(config.test), canvases=(canvas,), score_threshold=0.0)
    mesh = make_mesh(jax.devices()[:1])
    command_line.note("initialising the model")
    variables = jax.device_put(without_deltas(init_variables(MaskRCNN(config.model), 0)), replicated(mesh))
    images, image_hw = jax.device_put(random_images(canvas, batch_size), batch_sharding(mesh))
    predict = make_prediction_program(config.model, test, mesh)
    compiled, compile_seconds, flops = compile_function(predict, variables, images, image_hw)
    found: Any = None

    def call() -> Any:
        nonlocal found
        found = compiled(variables, images, image_hw)
        return found

    def facts() -> dict[str, Any]:
        return {"detections_per_image": np.asarray(found.valid).sum(1).mean().item()}

    return TimedProgram(compiled, compile_seconds, flops, call, facts)


def without_deltas(variables: dict[str, Any]) -> dict[str, Any]:
    """Returns the variables with zero kernels where deltas are computed, so that proposals and detections are anchors.

    The features of an untrained deep network are large: its deltas would move every box out of the image, and nothing
    would be left for NMS, RoIAlign and the heads to do.
    """
    leaves = named_leaves(variables)
    return replace_leaves(variables, {name: leaf * ("/deltas/" not in name) for name, leaf in leaves.items()})


def prepare_training(config: Config, canvas: Canvas, batch_size: int) -> TimedProgram:
    """Compiles the training step for all devices."""
    mesh = make_mesh()
    if batch_size % mesh.size:
        raise ConfigError(f"--batch-size {batch_size} is not divisible by {mesh.size} devices.")
    program = make_training_program(config, mesh)
    command_line.note("initialising the model")
    state = jax.device_put(program.create_state(), program.state_shardings)
    batch = jax.device_put(random_batch(config, canvas, batch_size), batch_sharding(mesh))
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    compiled, compile_seconds, flops = compile_function(program.step, state, batch, key)
    metrics: Metrics = {}

    def call() -> Any:
        nonlocal state, metrics
        state, metrics = compiled(state, batch, key)
        return state, metrics

    return TimedProgram(compiled, compile_seconds, flops, call, lambda: {"loss": float(metrics["loss/total"])})


def random_images(canvas: Canvas, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise images uint8 [B, H, W, 3] that fill the canvas, and their sizes int32 [B, 2]."""
    images = np.random.default_rng(0).integers(0, 256, (batch_size, *canvas, 3), dtype=np.uint8)
    return images, np.tile(np.array(canvas, np.int32), (batch_size, 1))


def random_batch(config: Config, canvas: Canvas, batch_size: int) -> Batch:
    """Returns noise images, each with a few random ellipses as ground truth."""
    images, image_hw = random_images(canvas, batch_size)
    slots, side = (batch_size, config.data.max_objects), config.data.mask_size
    rng = np.random.default_rng(1)
    corners, sizes = rng.uniform(0, 0.7, (*slots, 2)), rng.uniform(0.05, 0.3, (*slots, 2))
    valid = np.broadcast_to(np.arange(slots[1]) < NUM_OBJECTS, slots)
    scale = np.array(canvas[::-1])
    boxes = np.concatenate([corners * scale, (corners + sizes) * scale], -1) * valid[..., None]
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    masks = (x**2 + y**2 <= 1) & valid[..., None, None]
    ground_truth = GroundTruth(
        boxes=boxes.astype(np.float32),
        labels=(rng.integers(1, config.model.num_classes + 1, slots) * valid).astype(np.int32),
        masks=masks.astype(np.uint8),
        valid=valid,
        has_mask=valid,
    )
    index = np.arange(batch_size, dtype=np.int32)
    return Batch(images, image_hw, ground_truth, valid=np.ones(batch_size, bool), image_id=index, sample_index=index)


def compile_function(function: Any, *arguments: Any) -> tuple[Callable[..., Any], float, float | None]:
    """Returns the compiled function, the seconds to trace and compile it, and its flops as in `TimedProgram`."""
    command_line.note("compiling")
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    trim_heap()
    command_line.note(f"compiled in {seconds:.1f} s, timing")
    costs = lowered.cost_analysis() or {}
    return compiled, seconds, costs.get("flops")


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Returns the seconds until the result is ready, and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def profile_parts(program: TimedProgram, num_calls: int) -> dict[str, dict[str, float]]:
    """Returns the milliseconds of a call by part of the model; prints a note if the profile is incomplete."""
    parts = profile_calls(program.call, program.compiled.as_text(), num_calls)
    total = sum(sum(part.values()) for part in parts.values())
    unknown = sum(parts.get(UNKNOWN, {}).values())
    if not parts:
        command_line.note("The profile contains no event of this program.")
    elif unknown > NOTEWORTHY * total:
        command_line.note(
            f"{unknown / total:.0%} of the profiled time belongs to instructions that the program does not name. On "
            "GPUs, XLA_FLAGS=--xla_gpu_enable_command_buffer= avoids the command buffers that hide names."
        )
    return {part: {way: round(value, 3) for way, value in ways.items()} for part, ways in parts.items()}


def make_report(
    task: str,
    preset: str,
    config: Config,
    canvas: Canvas,
    batch_size: int,
    program: TimedProgram,
    seconds: list[float],
) -> dict[str, Any]:
    """Returns the report, which is printed as JSON."""
    median = statistics.median(seconds)
    memory = jax.devices()[0].memory_stats() or {}
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
    rss_unit = 1 if sys.platform == "darwin" else 1024
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * rss_unit
    return {
        "task": task,
        "preset": Path(preset).stem,
        "backbone": config.model.backbone,
        "dtype": config.model.dtype,
        "canvas": f"{canvas[0]}x{canvas[1]}",
        "batch_size": batch_size,
        "iterations": len(seconds),
        "median_ms": round(1000 * median, 3),
        "min_ms": round(1000 * min(seconds), 3),
        "images_per_second": round(batch_size / median, 3),
        "compile_seconds": round(program.compile_seconds, 2),
        "flops": program.flops,
        "share_of_peak_flops": share_of_peak(program.flops, median, config.model.dtype),
        "peak_rss_mib": round(peak_rss / 2**20),
        "peak_device_mib": round(memory["peak_bytes_in_use"] / 2**20) if "peak_bytes_in_use" in memory else None,
        **program.facts(),
        **read_environment(),
    }


def share_of_peak(flops: float | None, seconds: float, dtype: str) -> float | None:
    """Returns the share of the GPU's peak that a call reaches, for float32 the TF32 peak; None if it is unknown."""
    gpus = {gpu.name: gpu for gpu in GPUS.values()}
    gpu = gpus.get(jax.devices()[0].device_kind)
    if gpu is None or flops is None:
        return None
    peak = gpu.bfloat16_flops if dtype == "bfloat16" else gpu.tf32_flops
    return round(flops / seconds / peak / jax.device_count(), 4)


def read_environment() -> dict[str, Any]:
    """Returns the devices and versions with which figures were measured."""
    device = jax.devices()[0]
    return {
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
    }
