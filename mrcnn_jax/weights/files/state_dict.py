"""The arrays of a checkpoint file by name, whatever library wrote it; the format shows in its first bytes.

torch's zip and older files, Detectron2's and Caffe2's pickles, safetensors, NumPy's .npz. Weights that lie beside other
things (an optimizer, a step count) are found under `model`, `state_dict` or `blobs`.
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
"""Keys under which weights lie beside other things."""

PICKLE_STARTS = (b"\x80", b"(", b"}", b"]", b"c")
"""First bytes of pickles: of protocol 2 and later, and of older ones that hold a container."""

ADVICE = "It is damaged or holds more than weights: download it again, or save the state dict alone."
MAX_REASON = 300
"""Characters of an error: a name or value of the file may be of any length."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file."""

    arrays: dict[str, np.ndarray]
    """By the file's names; floats as float32, others as they are."""
    format: str
    """For people."""


def read_state_dict(path: Path) -> Checkpoint:
    """Reads a checkpoint. Nothing that the file says is run; what it claims is checked against its size.

    Raises DataError for a file that cannot be read, is damaged, or asks for more than arrays.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            kind, value = _read(file, data)
            arrays = _find_arrays(value, Budget(plausible_size(len(data), is_packed=kind == "npz")))
            return Checkpoint(arrays, kind)
    except (FileError, ValueError) as error:  # ValueError: mmap of an empty file, NumPy of an impossible shape
        reason = _one_line(str(error)[:MAX_REASON]).rstrip(".")
        raise DataError(f"{path}: {reason}. {ADVICE}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _one_line(text: str) -> str:
    """The text without line breaks, and without what would steer a terminal."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _read(file: BinaryIO, data: mmap.mmap) -> tuple[str, Any]:
    """The format and the value that the file holds."""
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
    require(start.startswith(PICKLE_STARTS), "its first bytes are those of no known format")
    value = read_pickle(Cursor(data))
    caffe2 = isinstance(value, dict) and "blobs" in value
    return "pickle (Caffe2)" if caffe2 else "pickle (Detectron2)", value


def _find_arrays(value: Any, budget: Budget) -> dict[str, np.ndarray]:
    require(isinstance(value, dict), f"it holds a {type(value).__name__}, no table of arrays")
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
    require(bool(arrays), "it holds no arrays by name")
    return _without_prefix(arrays)


def _as_array(item: Tensor | PendingArray | np.ndarray, name: str) -> np.ndarray:
    array = item if isinstance(item, np.ndarray) else item.array() if isinstance(item, Tensor) else item.array
    if array is None:
        raise FileError(f"{name} has no content")
    check_dtype(array.dtype, name)
    return array


def _without_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names without `module.`, which torch's data-parallel wrapper puts before all of them."""
    prefix = "module." if all(name.startswith("module.") for name in arrays) else ""
    return {name.removeprefix(prefix): array for name, array in arrays.items()}
