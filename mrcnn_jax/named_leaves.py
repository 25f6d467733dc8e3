"""Named pytree leaves, and records that verify that the leaves are read back from disk unchanged.

A name joins the path with "/": `params/backbone/stem/conv/kernel`. A record holds the dtype, shape and SHA-256 of one
leaf and is stored as JSON. Orbax does not notice a flipped bit in its array files and casts silently on restore, so the
arrays of a checkpoint or weights folder are compared with their records before they are used.
"""

import functools
import hashlib
import logging
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
Record = dict[str, Any]


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of `tree` by name, in the order of the tree."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def replace_leaves(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """Returns `tree` with every leaf replaced by the one of that name in `leaves`; KeyError if one is missing."""
    return jax.tree_util.tree_unflatten(
        jax.tree_util.tree_structure(tree), [leaves[name] for name in named_leaves(tree)]
    )


def host_copies(tree: PyTree) -> dict[str, np.ndarray]:
    """Returns named copies of the leaves in host memory, which stay valid when the device buffers are donated."""
    # On the CPU, device_get returns a view of the device buffer, hence the copy.
    return {name: np.array(leaf) for name, leaf in named_leaves(jax.device_get(tree)).items()}


def checksum(array: np.ndarray) -> str:
    """Returns the SHA-256 over dtype, shape and bytes, in hexadecimal."""
    digest = hashlib.sha256(f"{array.dtype.name} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def record_leaves(leaves: Mapping[str, np.ndarray]) -> dict[str, Record]:
    """Returns the record of each leaf: {"dtype": "float32", "shape": [2, 3], "sha256": "..."}."""
    return {
        name: {"dtype": leaf.dtype.name, "shape": list(leaf.shape), "sha256": checksum(leaf)}
        for name, leaf in leaves.items()
    }


def describe_differences(expected: Mapping[str, Any], records: Mapping[str, Record]) -> list[str]:
    """Returns a phrase for each leaf that is missing, unexpected, or recorded with the wrong shape or dtype.

    `expected` maps names to arrays or ShapeDtypeStructs.
    """
    problems = [f"{name} is missing" for name in expected if name not in records]
    problems += [f"{name} is not part of the model" for name in records if name not in expected]
    for name in [name for name in expected if name in records]:
        want = f"{np.dtype(expected[name].dtype).name}{list(expected[name].shape)}"
        have = f"{records[name]['dtype']}{records[name]['shape']}"
        if want != have:
            problems.append(f"{name} is {have} instead of {want}")
    return problems


def find_changed(leaves: Mapping[str, np.ndarray], records: Mapping[str, Record]) -> list[str]:
    """Returns the names of the leaves that differ from their record in dtype, shape or content."""
    return [name for name, leaf in leaves.items() if checksum(leaf) != records[name]["sha256"]]


def find_not_finite(leaves: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names of the leaves that contain NaN or infinity."""
    # NumPy does not count bfloat16 as a floating type; JAX does.
    floats = {name: leaf for name, leaf in leaves.items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    return [name for name, leaf in floats.items() if not np.isfinite(leaf).all()]


def count_not_finite(array: np.ndarray) -> str:
    """Returns how many values of an array are NaN or infinite, as text for messages: `3 of 64 values`."""
    return f"{array.size - int(np.isfinite(array).sum())} of {array.size} values"


@functools.cache  # installs the hook only once
def silence_abandoned_reads() -> None:
    """Suppresses the redundant tracebacks that follow when Orbax cannot read an array.

    When one array cannot be read, Orbax closes its event loop while the other reads are still running; each of them
    would print a traceback at some later time, from its own thread or through asyncio's log.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            previous(unraisable)

    sys.unraisablehook = hook
