"""Checks that all devices of this process compute the same values, and that sums over devices are correct."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from mrcnn_jax.mesh import DATA_AXIS
from mrcnn_jax.models import convolution
from mrcnn_jax.selftest.findings import EXACT, FLOAT32, Finding, Setting, random_of, relative_error, shape_text


def check_devices(setting: Setting) -> Iterator[Finding]:
    """Compares a convolution on each device with that on the first, and checks a sum over all devices."""
    devices = jax.local_devices()
    rng = random_of("devices")
    x = rng.standard_normal((1, *setting.map_hw(8), 64), dtype=np.float32)
    kernel = rng.standard_normal((3, 3, 64, 64), dtype=np.float32)
    run = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, stride=1, dilation=1, groups=1))
    found = [np.asarray(run(*jax.device_put((x, kernel), device))) for device in devices]
    worst = max(relative_error(each, found[0]) for each in found)
    yield Finding("the same on all devices", f"{len(devices)} x {shape_text(*x.shape)}", worst, FLOAT32)

    parts = rng.integers(-1000, 1000, (len(devices), 1 << 16)).astype(np.float32)  # sums of whole numbers are exact
    mesh, split = Mesh(np.asarray(devices), (DATA_AXIS,)), PartitionSpec(DATA_AXIS)
    total = jax.jit(
        jax.shard_map(lambda part: jax.lax.psum(part, DATA_AXIS), mesh=mesh, in_specs=split, out_specs=split)
    )(parts)
    wrong = np.asarray(total) != parts.sum(axis=0, keepdims=True)
    yield Finding("sum over all devices", shape_text(*parts.shape), float(wrong.sum()), EXACT)
