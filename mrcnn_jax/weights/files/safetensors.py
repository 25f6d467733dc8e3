"""safetensors, through its own library, which checks the header against the file."""

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
"""Bytes of the header; a tensor takes some hundred, and memory and time for many times that."""


def read_safetensors(data: Any) -> dict[str, np.ndarray]:
    """The arrays of a mapped file by name."""
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
        require(flat.size == count_elements(entry["shape"], name), f"{name} has another size than its shape")
        arrays[name] = flat.reshape(entry["shape"])
    return arrays


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the header; the library takes the last of two entries of one name."""
    found = dict(pairs)
    require(len(found) == len(pairs), "the header has two entries of one name")
    return found
