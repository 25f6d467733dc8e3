"""safetensors, through its own library, which checks the header against the file."""

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


def read_safetensors(data: Any) -> dict[str, np.ndarray]:
    """The arrays of a mapped file by name."""
    import safetensors

    try:
        entries = safetensors.deserialize(bytes(data))
    except safetensors.SafetensorError as error:
        raise FileError(str(error)) from error
    arrays = {}
    for name, entry in entries:
        require(entry["dtype"] in DTYPES, f"{name} has the type {entry['dtype']}, which is not supported")
        flat = array_of(entry["data"], DTYPES[entry["dtype"]], name)
        require(flat.size == count_elements(entry["shape"], name), f"{name} has another size than its shape")
        arrays[name] = flat.reshape(entry["shape"])
    return arrays
