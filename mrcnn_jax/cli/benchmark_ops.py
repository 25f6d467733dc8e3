"""Times single operations at the sizes of one canvas: RoIAlign, selection of anchors, NMS, mask pasting; prints JSON.

RoIAlign over the pyramid is timed as for boxes and as for masks, with two samples per bin and axis and with adaptive
sampling, and its gradients are timed separately. The other operations are the selection of the best anchors of each
level; NMS of proposals, of detections, and of 1,000 to 12,000 boxes of which all may be kept, in one class and in four;
and masks of 28 x 28 that are pasted into the canvas, or encoded. The report contains the median and the smallest time
of all calls in milliseconds, and the same for the processor time of all threads.

mrcnn benchmark-ops --canvas 800x1344 --dtype bfloat16
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.benchmark import check_sizes, compile_function, read_environment, timed
from mrcnn_jax.config import Canvas, ModelConfig, TestConfig
from mrcnn_jax.detection.pooling import pool_rois
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inference.paste_masks import encode_masks, paste_masks
from mrcnn_jax.integers import ceil_div
from mrcnn_jax.ops.nms import suppress_overlaps
from mrcnn_jax.ops.top_k import find_largest

CHANNELS = 256
ANCHORS_PER_CELL = 3
NUM_CLASSES = 80
MASK_SIZE = 28
NMS_SIZES = (1000, 2000, 4000, 12000)
NMS_CASES = (("nms", 1, 0.7), ("nms_4_classes", 4, 0.5))
"""Name, number of classes and threshold."""
ON_HOST = ("paste_masks", "encode_masks")
OPERATIONS = (
    *(
        f"roi_align_{head}{sampling}{part}"
        for head in ("box", "mask")
        for sampling in ("", "_adaptive")
        for part in ("", "_gradients")
    ),
    "top_k_anchors",
    "nms_proposals",
    "nms_detections",
    *(f"{name}_{size}" for name, _, _ in NMS_CASES for size in NMS_SIZES),
    *ON_HOST,
)
LARGEST_SIDE, SMALLEST_SIDE = 660.0, 16.0
"""Range of the sides of RoIs and boxes in pixels; their logarithms are uniform."""


@dataclass(frozen=True)
class Arguments:
    canvas: Canvas = command_line.Required
    """Padded size of the network input."""
    batch_size: int = 1
    """Number of images."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the features."""
    box_rois: int = 1000
    """RoIs per image in roi_align_box."""
    mask_rois: int = 100
    """RoIs per image in roi_align_mask, and masks per image in mask pasting."""
    iterations: int = 10
    """Number of timed calls, after an untimed one."""
    only: str = ""
    """Time only the operations with this text in their name."""


def main() -> None:
    arguments = command_line.parse(Arguments(), __doc__ or "")
    check_sizes(arguments.canvas, arguments.batch_size, arguments.iterations)
    if not any(arguments.only in name for name in OPERATIONS):
        raise ConfigError(f"--only {arguments.only}: expected a part of one of {', '.join(OPERATIONS)}.")
    report = {
        "canvas": "x".join(map(str, arguments.canvas)),
        "batch_size": arguments.batch_size,
        "dtype": arguments.dtype,
        "iterations": arguments.iterations,
        "operations": {
            name: (measure_on_host if name in ON_HOST else measure)(function, inputs, arguments.iterations)
            for name, function, inputs in operations(arguments)
            if arguments.only in name
        },
        **read_environment(),
    }
    print(json.dumps(report, indent=2))


def measure(function: Callable[..., Any], inputs: tuple[Any, ...], iterations: int) -> dict[str, float]:
    """Compiles and times one operation."""
    inputs = jax.device_put(inputs)
    compiled, compile_seconds, _ = compile_function(jax.jit(function), *inputs)
    return time_calls(lambda: compiled(*inputs), iterations) | {"compile_seconds": round(compile_seconds, 2)}


def measure_on_host(function: Callable[..., Any], inputs: tuple[Any, ...], iterations: int) -> dict[str, float]:
    """Times one NumPy operation."""
    return time_calls(lambda: function(*inputs), iterations)


def time_calls(call: Callable[[], Any], iterations: int) -> dict[str, float]:
    timed(call)
    seconds, processor_seconds = [], []
    for _ in range(iterations):
        start = time.process_time()
        seconds.append(timed(call)[0])
        processor_seconds.append(time.process_time() - start)
    return {
        "median_ms": round(1000 * statistics.median(seconds), 4),
        "min_ms": round(1000 * min(seconds), 4),
        "processor_ms": round(1000 * statistics.median(processor_seconds), 4),
        "min_processor_ms": round(1000 * min(processor_seconds), 4),
    }


def pool_one_set(features: Any, rois: Any, image_hw: Any, *, output_size: int, model_config: ModelConfig) -> Any:
    """Returns the pooled features of the RoIs."""
    return pool_rois(features, [rois], image_hw, output_sizes=[output_size], model_config=model_config)[0]


def operations(arguments: Arguments) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """Yields the name of each operation, the function and its inputs."""
    rng = np.random.default_rng(0)
    model, test, batch = ModelConfig(), TestConfig(), arguments.batch_size
    sizes = [tuple(ceil_div(side, stride) for side in arguments.canvas) for stride in model.feature_strides]
    image_hw = np.tile(np.array(arguments.canvas, np.int32), (batch, 1))
    features = tuple(random_normal(rng, (batch, *size, CHANNELS), arguments.dtype) for size in sizes)
    adaptive = replace(model, sampling_ratio=0, roi_align_aligned=True)
    counts_and_sides = (arguments.box_rois, model.box_pool_size), (arguments.mask_rois, model.mask_pool_size)
    for name, (count, side) in zip(("box", "mask"), counts_and_sides, strict=True):
        rois = np.stack([random_boxes(rng, count, arguments.canvas) for _ in range(batch)])
        weights = random_normal(rng, (batch * count, side, side, CHANNELS), arguments.dtype)
        for suffix, config in (("", model), ("_adaptive", adaptive)):
            pool = partial(pool_one_set, output_size=side, model_config=config)
            yield f"roi_align_{name}{suffix}", pool, (features, rois, image_hw)
            yield f"roi_align_{name}{suffix}_gradients", partial(gradients, pool), (features, rois, image_hw, weights)

    scores = tuple(rng.normal(size=(batch, ANCHORS_PER_CELL * h * w)).astype(np.float32) for h, w in sizes)
    counts = [min(test.pre_nms_top_n, level.shape[1]) for level in scores]
    yield "top_k_anchors", partial(best_anchors, counts), (scores,)

    levels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    yield nms("nms_proposals", rng, arguments, levels, test.rpn_nms_threshold, test.post_nms_top_n)
    classes = rng.integers(1, NUM_CLASSES + 1, min(test.max_candidates, arguments.box_rois * NUM_CLASSES))
    yield nms("nms_detections", rng, arguments, classes.astype(np.int32), test.nms_threshold, test.max_detections)
    for name, num_classes, threshold in NMS_CASES:
        for size in NMS_SIZES:
            classes = rng.integers(0, num_classes, size).astype(np.int32)
            yield nms(f"{name}_{size}", rng, arguments, classes, threshold, size)

    count = batch * arguments.mask_rois
    masks = rng.random((count, MASK_SIZE, MASK_SIZE), np.float32)
    pasting = (masks, random_boxes(rng, count, arguments.canvas), arguments.canvas, test.mask_threshold)
    yield from zip(ON_HOST, (paste_masks, encode_masks), (pasting, pasting), strict=True)


def nms(
    name: str, rng: np.random.Generator, arguments: Arguments, groups: np.ndarray, threshold: float, max_kept: int
) -> tuple[str, Callable[..., Any], tuple[Any, ...]]:
    """Returns NMS of random boxes in these groups, image by image, with its name and inputs."""
    shape = (arguments.batch_size, len(groups))
    boxes = np.stack([random_boxes(rng, len(groups), arguments.canvas) for _ in range(shape[0])])
    function = jax.vmap(partial(suppress_overlaps, iou_threshold=threshold, max_kept=max_kept))
    return name, function, (boxes, random_normal(rng, shape), np.ones(shape, bool), np.broadcast_to(groups, shape))


def gradients(pool: Callable[..., Any], features: Any, rois: Any, image_hw: Any, weights: Any) -> Any:
    """Returns the gradients of the features, given those of the pooled features, which are not computed: `weights`."""
    return jax.vjp(lambda features: pool(features, rois, image_hw), features)[1](weights)[0]


def best_anchors(counts: list[int], scores: tuple[Any, ...]) -> list[Any]:
    """Returns the best anchors of each level."""
    return [jax.vmap(partial(find_largest, k=count))(level) for level, count in zip(scores, counts, strict=True)]


def random_normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    return rng.standard_normal(shape, np.float32).astype(jnp.dtype(dtype))


def random_boxes(rng: np.random.Generator, count: int, canvas: Canvas) -> np.ndarray:
    """Returns squares [count, 4] at random places, clipped to the canvas."""
    sides = np.exp(rng.uniform(np.log(SMALLEST_SIDE), np.log(LARGEST_SIDE), (count, 1)))
    centres = rng.uniform(0, 1, (count, 2)) * canvas[::-1]
    corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return np.clip(corners, 0, [*canvas[::-1]] * 2).astype(np.float32)
