"""How fast this machine trains: estimated from one convolution, or measured with a few steps of the model itself."""

import dataclasses
import os
import time

import jax
import jax.numpy as jnp

from mrcnn_jax.cli.benchmark import prepare_training, timed
from mrcnn_jax.config import Config
from mrcnn_jax.recipe.step_cost import MachineSpeed, step_flops

_CONVOLUTION_HW, _CHANNELS = (96, 96), 64
SHARE_OF_CONVOLUTION = 0.5
"""Share of the speed of one convolution that training steps reach, roughly; a measurement replaces the estimate."""
_START_SECONDS = {"cpu": 45.0}
"""Seconds to compile a step before this is measured."""
_OTHER_START_SECONDS = 90.0
_NUM_STEPS = 3


def estimate_machine(gflops: float = 0.0) -> MachineSpeed:
    """Returns the machine with its speed estimated from the gradient of one convolution, or as given in GFLOP/s."""
    platform = jax.default_backend()
    start = _START_SECONDS.get(platform, _OTHER_START_SECONDS)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    evidence = "with the speed given by --gflops" if gflops else "estimated from the speed of one convolution"
    speed = gflops * 1e9 or SHARE_OF_CONVOLUTION * _convolution_speed()
    return MachineSpeed(platform, jax.device_count(), speed, start, evidence, cores)


def measure_machine(machine: MachineSpeed, config: Config, relative_speed: float) -> MachineSpeed:
    """Returns the machine with the speed of a few training steps of this model, and the time of its compilation.

    Keypoints are left out, which the count of operations accounts for.
    """
    canvas = config.data.canvases[0]
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model, num_keypoints=0, keypoint_flip=(), num_classes=max(1, config.model.num_classes)
        ),
        data=dataclasses.replace(config.data, canvases=(canvas,)),
    )
    batch_size = config.train.batch_size
    program = prepare_training(config, canvas, batch_size)
    timed(program.call)
    seconds = min(timed(program.call)[0] for _ in range(_NUM_STEPS))
    speed = step_flops(config, canvas, batch_size) / seconds / relative_speed
    return dataclasses.replace(
        machine,
        flops_per_second=speed,
        start_seconds=program.compile_seconds,
        evidence=f"measured on this machine with {machine.num_devices} devices",
    )


def _convolution_speed() -> float:
    """Returns the additions and multiplications per second of a 3x3 convolution's gradient, over all devices."""
    images = jnp.ones((2, *_CONVOLUTION_HW, _CHANNELS))
    kernel = jnp.ones((3, 3, _CHANNELS, _CHANNELS))

    @jax.jit
    def gradient(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        def total(images: jax.Array, kernel: jax.Array) -> jax.Array:
            convolved = jax.lax.conv_general_dilated(
                images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jnp.sum(convolved**2)

        return jax.grad(total, argnums=(0, 1))(images, kernel)

    jax.block_until_ready(gradient(images, kernel))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(gradient(images, kernel))
        seconds.append(time.perf_counter() - start)
    macs = 2 * _CONVOLUTION_HW[0] * _CONVOLUTION_HW[1] * 9 * _CHANNELS**2
    num_devices = 1 if jax.default_backend() == "cpu" else jax.device_count()  # one CPU device uses all cores
    return 3 * 2 * macs / min(seconds) * num_devices
