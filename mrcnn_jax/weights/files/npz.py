"""Reader of NumPy's .npz. Headers are matched by a pattern, not evaluated, and checked against their entry's size."""

import re
import zipfile

import numpy as np

from mrcnn_jax.weights.files.tensors import FileError, count_elements, plain_dtype, plausible_size, require
from mrcnn_jax.weights.files.zips import checked_entries, read_entry

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4}
"""Size in bytes of the field with the header's length, by version."""
MAX_HEADER = 10_000
"""Maximum size of a header in bytes, as in NumPy."""
HEADER = re.compile(
    rb"\{\s*'descr': '([^']{1,20})', 'fortran_order': (True|False), 'shape': \(([\dL, ]{0,700})\),?\s*\}\s*"
)
"""The header of an array of plain numbers; Python 2 wrote sides as 4L."""


def read_npz(archive: zipfile.ZipFile, file_size: int) -> dict[str, np.ndarray]:
    """Returns the arrays of the archive by name. Raises FileError for objects and for entries that are not .npy."""
    arrays = {}
    for name, entry in checked_entries(archive, plausible_size(file_size, is_packed=True)).items():
        require(name.endswith(".npy"), f"the archive has an entry {name}, which is not an array")
        arrays[name.removesuffix(".npy")] = _array(read_entry(archive, entry), name)
    return arrays


def _array(content: bytes, name: str) -> np.ndarray:
    version = content[6:8]
    require(content.startswith(MAGIC) and version in LENGTH_BYTES, f"{name} is not an array of a known version")
    start = 8 + LENGTH_BYTES[version]
    end = start + int.from_bytes(content[8:start], "little")
    header = HEADER.fullmatch(content[start:end]) if end <= MAX_HEADER else None
    if header is None:
        raise FileError(f"the header of {name} is not in NumPy's format")
    descr, is_fortran, sides = (group.decode() for group in header.groups())
    try:
        shape = tuple(int(side.strip().removesuffix("L")) for side in sides.split(",") if side.strip())
    except ValueError:
        raise FileError(f"{name} has an invalid shape") from None
    dtype = plain_dtype(descr, name)
    claimed = end + count_elements(shape, name) * dtype.itemsize
    require(claimed == len(content), f"{name} has {len(content)} bytes instead of {claimed}")
    return np.frombuffer(content, dtype, offset=end).reshape(shape, order="F" if is_fortran == "True" else "C")
