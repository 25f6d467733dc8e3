"""Reader of safetensors files. It uses the safetensors library, which checks the header against the file."""

import json
from typing import Any

import numpy as np

from mrcnn_jax.weights.files.tensors import FileError, array_of, count_elements, require

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}

MAX_HEADER = 2**21
"""Maximum size of the header in bytes. Each tensor takes about 100, and many times that in memory and time."""


def read_safetensors(data: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a mapped file by name."""
    import safetensors

    length = int.from_bytes(data[:8], "little")
    require(length <= MAX_HEADER, "the header is too long")
    try:
        entries = safetensors.deserialize(bytes(data))
    except safetensors.SafetensorError as error:
        raise FileError(str(error)) from error
    json.loads(data[8 : 8 + length], object_pairs_hook=_unique)
    arrays = {}
    for name, entry in entries:
        require(entry["dtype"] in DTYPES, f"{name} has the type {entry['dtype']}, which is not supported")
        flat = array_of(entry["data"], DTYPES[entry["dtype"]], name)
        require(flat.size == count_elements(entry["shape"], name), f"the size of {name} does not match its shape")
        arrays[name] = flat.reshape(entry["shape"])
    return arrays


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object of the header. The library would take the last of two entries with the same name."""
    found = dict(pairs)
    require(len(found) == len(pairs), "the header has two entries with the same name")
    return found
