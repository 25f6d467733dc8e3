"""The device mesh and how things lie on it: images split over the axis `data`, everything else replicated."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of all devices (of all processes, by default) along the one axis `data`."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of parameters and metrics: a full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: the leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))
