"""NumPy's .npz: each header is read and compared with its entry's size before the array is."""

import zipfile
import zlib
from typing import Any

import numpy as np

from mrcnn_jax.weights.files.tensors import FileError, check_dtype, count_elements, require
from mrcnn_jax.weights.files.zips import checked_entries


def read_npz(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """The arrays of the archive by name; FileError for objects and for anything that is no .npy."""
    arrays = {}
    for name, entry in checked_entries(archive).items():
        require(name.endswith(".npy"), f"the archive holds {name}, which is no array")
        try:
            arrays[name.removesuffix(".npy")] = _read_array(archive, entry)
        except (ValueError, SyntaxError, EOFError, TypeError, OSError, RuntimeError, zlib.error) as error:
            raise FileError(f"{name}: {error}") from error
    return arrays


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    name = entry.filename
    with archive.open(entry) as file:
        shape, _, dtype = _read_header(file, np.lib.format.read_magic(file))
        check_dtype(dtype, name)
        claimed = file.tell() + count_elements(shape, name) * dtype.itemsize
        require(claimed == entry.file_size, f"{name} claims {claimed} bytes, it has {entry.file_size}")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_header(file: Any, version: tuple[int, int]) -> tuple[Any, bool, np.dtype]:
    require(version in ((1, 0), (2, 0)), f"the array format {version} is unknown")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)
