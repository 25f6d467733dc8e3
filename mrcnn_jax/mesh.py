"""The device mesh: batches are split over its only axis, `data`, and parameters are replicated."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"
Tree = TypeVar("Tree")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with the one axis `data`, by default over the devices of all processes in process order."""
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(devices), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of parameters and metrics: a full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its leading axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def place(tree: Tree, shardings: Any) -> Tree:
    """Returns the tree as arrays over all devices; every process holds whole arrays, in NumPy or on its own devices."""

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if isinstance(shardings, NamedSharding):
        sharding = shardings
        return jax.tree.map(lambda leaf: put(leaf, sharding), tree)
    return jax.tree.map(put, tree, shardings)


def place_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Returns the batch as arrays over all devices; each process passes its own rows as NumPy arrays."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch)


def local_copies(tree: Tree, mesh: Mesh) -> Tree:
    """Returns replicated arrays as arrays over this process's own devices, without copying."""
    own = replicated(local_mesh(mesh))

    def gather(leaf: jax.Array) -> jax.Array:
        return jax.make_array_from_single_device_arrays(
            leaf.shape, own, [shard.data for shard in leaf.addressable_shards]
        )

    return jax.tree.map(gather, tree)


def local_mesh(mesh: Mesh) -> Mesh:
    """Returns the part of the mesh that belongs to this process."""
    return make_mesh([device for device in mesh.devices.flat if device.process_index == jax.process_index()])
