"""Measures how many training images this host reads, decodes and prepares per second; prints JSON. Runs no model.

mrcnn benchmark-data mask_rcnn_r50_fpn_1x --data.train data/coco:train --data.num-threads 8

`cpu_ms_per_image` is the time of all cores together: a host needs images per second * cpu_ms_per_image / 1000 cores.
Each process of a run reads its own share of the images.
"""

import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn_jax.cli import command_line
from mrcnn_jax.config import Config
from mrcnn_jax.data.pipeline import training_batches
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.training.data_checks import open_data


@dataclass(frozen=True)
class Arguments:
    """Data and its preparation."""

    config: command_line.Inline[Config]
    num_batches: int = 50
    """Number of batches, of train.batch_size images each."""


def main() -> None:
    config, options = command_line.split_preset()
    arguments = command_line.parse(Arguments(config), (__doc__ or "").splitlines()[0], options, usage="PRESET")
    if arguments.num_batches < 1:
        raise ConfigError("--num-batches: expected 1 or more.")
    print(json.dumps(measure(arguments.config, arguments.num_batches), indent=2))


def measure(config: Config, num_batches: int) -> dict[str, Any]:
    """Returns the report: images per second of wall-clock time, and the time of all cores per image."""
    batch_size = config.train.batch_size
    batches = training_batches(
        open_data(config)[0],
        config.data,
        batch_size=batch_size,
        seed=config.train.seed,
        start_step=0,
        num_steps=num_batches,
        keypoint_flip=config.model.keypoint_flip,
    )
    start, cpu_start = time.perf_counter(), time.process_time()
    canvases = Counter("x".join(map(str, batch.images.shape[1:3])) for batch in batches)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    num_images = num_batches * batch_size
    return {
        "data": Path(config.data.train).name,
        "images": num_images,
        "batches_by_canvas": dict(canvases),
        "num_threads": config.data.num_threads,
        "cores": os.cpu_count(),
        "images_per_second": round(num_images / seconds, 2),
        "cpu_ms_per_image": round(1000 * cpu_seconds / num_images, 2),
    }
