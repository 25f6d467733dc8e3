"""Reader of checkpoint files of several frameworks. The format is recognised by the first bytes.

The formats are torch's zip and older files, Detectron2's and Caffe2's pickles, safetensors, and NumPy's .npz. In files
with more than weights (an optimizer, a step count), the weights are found under one of the keys in `NESTED`.
"""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.files.cursor import Cursor
from mrcnn_jax.weights.files.npz import read_npz
from mrcnn_jax.weights.files.pickle_machine import read_pickle
from mrcnn_jax.weights.files.reductions import PendingArray
from mrcnn_jax.weights.files.safetensors import read_safetensors
from mrcnn_jax.weights.files.tensors import Budget, FileError, Tensor, as_plain, check_dtype, plausible_size, require
from mrcnn_jax.weights.files.torch import LEGACY_START, is_torch_zip, read_torch_legacy, read_torch_zip
from mrcnn_jax.weights.files.zips import open_archive

NESTED = ("model", "state_dict", "model_state_dict", "blobs")
"""Keys of the weights in files that also have other content."""

PICKLE_STARTS = (b"\x80", b"(", b"}", b"]", b"c")
"""First bytes of pickles of protocol 2 and later, and of older ones with a container."""

ADVICE = "It is damaged or contains more than weights: download it again, or save only the state dict."
MAX_REASON = 300
"""Maximum number of characters in an error, since a name or value in the file may have any length."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    arrays: dict[str, np.ndarray]
    """Arrays by their names in the file. Floats are float32, other types are unchanged."""
    format: str
    """A readable name of the format."""


def read_state_dict(path: Path) -> Checkpoint:
    """Reads a checkpoint without executing any of its code. Declared sizes are checked against the file's size.

    Raises DataError if the file cannot be read, is damaged, or refers to anything but arrays.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            kind, value = _read(file, data)
            arrays = _find_arrays(value, Budget(plausible_size(len(data), is_packed=kind == "npz")))
            return Checkpoint(arrays, kind)
    except (FileError, ValueError) as error:  # ValueError: mmap for an empty file, NumPy for an impossible shape
        reason = _one_line(str(error)[:MAX_REASON]).rstrip(".")
        raise DataError(f"{path}: {reason}. {ADVICE}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _one_line(text: str) -> str:
    """Returns the text without line breaks and terminal control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _read(file: BinaryIO, data: mmap.mmap) -> tuple[str, Any]:
    """Returns the format and the value in the file."""
    start = data[:16]
    if start.startswith(b"PK\x03\x04"):
        with open_archive(file, data) as archive:
            if is_torch_zip(archive):
                return "torch zip", read_torch_zip(archive, len(data))
            return "npz", read_npz(archive, len(data))
    if start.startswith(LEGACY_START):
        return "torch before 1.6", read_torch_legacy(data)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= len(data) - 8:
        return "safetensors", read_safetensors(data)
    require(start.startswith(PICKLE_STARTS), "its first bytes do not match any known format")
    value = read_pickle(Cursor(data))
    caffe2 = isinstance(value, dict) and "blobs" in value
    return "pickle (Caffe2)" if caffe2 else "pickle (Detectron2)", value


def _find_arrays(value: Any, budget: Budget) -> dict[str, np.ndarray]:
    require(isinstance(value, dict), f"it has a value of type {type(value).__name__} instead of a table of arrays")
    for key in NESTED:
        if isinstance(value.get(key), dict):
            value = value[key]
            break
    arrays = {}
    for name, item in value.items():
        if isinstance(name, str) and isinstance(item, (Tensor, PendingArray, np.ndarray)):
            require(name.isprintable(), "the name of an array is not printable")
            array = _as_array(item, name)
            budget.spend(array.nbytes)
            arrays[name] = as_plain(array)
    require(bool(arrays), "it has no named arrays")
    return _without_prefix(arrays)


def _as_array(item: Tensor | PendingArray | np.ndarray, name: str) -> np.ndarray:
    array = item if isinstance(item, np.ndarray) else item.array() if isinstance(item, Tensor) else item.array
    if array is None:
        raise FileError(f"{name} has no content")
    check_dtype(array.dtype, name)
    return array


def _without_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays without the prefix `module.`, which torch's data-parallel wrapper adds to all names."""
    prefix = "module." if all(name.startswith("module.") for name in arrays) else ""
    return {name.removeprefix(prefix): array for name, array in arrays.items()}
