"""Reader of checkpoint files of several frameworks. The format is recognised by the first bytes.

The formats are torch's zip and older files, Detectron2's and Caffe2's pickles, safetensors, and NumPy's .npz. In files
with more than weights (an optimizer, a step count), `tables` finds the weights.
"""

import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.files.cursor import Cursor
from mrcnn_jax.weights.files.inert import Inert
from mrcnn_jax.weights.files.npz import read_npz
from mrcnn_jax.weights.files.pickle_machine import read_pickle
from mrcnn_jax.weights.files.reductions import PendingArray
from mrcnn_jax.weights.files.safetensors import read_safetensors
from mrcnn_jax.weights.files.tables import NoSuchWeights, choose_table
from mrcnn_jax.weights.files.tensors import Budget, FileError, Tensor, as_plain, check_dtype, plausible_size, require
from mrcnn_jax.weights.files.torch import LEGACY_START, is_torch_zip, read_torch_legacy, read_torch_zip
from mrcnn_jax.weights.files.zips import open_archive

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
    notes: tuple[str, ...] = ()
    """Sentences about which weights of the file were taken and what was left out."""
    beside: dict[str, Any] = field(default_factory=dict)
    """What the file says about itself: `meta` and the attributes of `args`, if it has them."""


def read_state_dict(path: Path, take: str = "auto") -> Checkpoint:
    """Reads a checkpoint without executing any of its code. Declared sizes are checked against the file's size.

    `take` chooses between a model and its averaged copy, see `tables.TAKE`. Raises DataError if the file cannot be
    read, is damaged, refers to anything but arrays and harmless objects, or lacks the weights that `take` asks for.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            kind, value = _read(file, data)
            require(isinstance(value, dict), f"it has a value of type {_kind(value)} instead of a table of arrays")
            chosen, notes = choose_table(value, take)
            arrays = _as_arrays(chosen, Budget(plausible_size(len(data), is_packed=kind == "npz")))
            return Checkpoint(arrays, kind, notes, _beside(value))
    except (FileError, ValueError) as error:  # ValueError: mmap for an empty file, NumPy for an impossible shape
        reason = _one_line(str(error)[:MAX_REASON]).rstrip(".")
        advice = "Leave the option out to take those." if isinstance(error, NoSuchWeights) else ADVICE
        raise DataError(f"{path}: {reason}. {advice}") from error
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


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Inert) else type(value).__name__


def _beside(value: dict[Any, Any]) -> dict[str, Any]:
    """Returns the plain dicts that describe the training."""
    found = {key: value.get(key) for key in ("meta", "args")}
    fields = {key: item.fields if isinstance(item, Inert) else item for key, item in found.items()}
    return {key: item for key, item in fields.items() if type(item) is dict}


def _as_arrays(chosen: dict[str, Any], budget: Budget) -> dict[str, np.ndarray]:
    arrays = {}
    for name, item in chosen.items():
        require(name.isprintable(), "the name of an array is not printable")
        array = _as_array(item, name)
        budget.spend(array.nbytes)
        arrays[name] = as_plain(array)
    return arrays


def _as_array(item: Tensor | PendingArray | np.ndarray, name: str) -> np.ndarray:
    array = item if isinstance(item, np.ndarray) else item.array() if isinstance(item, Tensor) else item.array
    if array is None:
        raise FileError(f"{name} has no content")
    check_dtype(array.dtype, name)
    return array
