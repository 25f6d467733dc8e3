"""NumPy's .npz: each header is matched by a pattern, not evaluated, and compared with its entry's size."""

import re
import zipfile

import numpy as np

from mrcnn_jax.weights.files.tensors import FileError, count_elements, plain_dtype, plausible_size, require
from mrcnn_jax.weights.files.zips import checked_entries, read_entry

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4}
"""Bytes of the header's length, by version."""
MAX_HEADER = 10_000
"""Bytes of a header; NumPy's own limit."""
HEADER = re.compile(
    rb"\{\s*'descr': '([^']{1,20})', 'fortran_order': (True|False), 'shape': \(([\dL, ]{0,700})\),?\s*\}\s*"
)
"""What NumPy writes for plain numbers; Python 2 wrote sides as 4L."""


def read_npz(archive: zipfile.ZipFile, file_size: int) -> dict[str, np.ndarray]:
    """The arrays of the archive by name; FileError for objects and for anything that is no .npy."""
    arrays = {}
    for name, entry in checked_entries(archive, plausible_size(file_size, is_packed=True)).items():
        require(name.endswith(".npy"), f"the archive holds {name}, which is no array")
        arrays[name.removesuffix(".npy")] = _array(read_entry(archive, entry), name)
    return arrays


def _array(content: bytes, name: str) -> np.ndarray:
    version = content[6:8]
    require(content.startswith(MAGIC) and version in LENGTH_BYTES, f"{name} is no array of a known version")
    start = 8 + LENGTH_BYTES[version]
    end = start + int.from_bytes(content[8:start], "little")
    header = HEADER.fullmatch(content[start:end]) if end <= MAX_HEADER else None
    if header is None:
        raise FileError(f"{name} has no header as NumPy writes it")
    descr, is_fortran, sides = (group.decode() for group in header.groups())
    try:
        shape = tuple(int(side.strip().removesuffix("L")) for side in sides.split(",") if side.strip())
    except ValueError:
        raise FileError(f"{name} has no proper shape") from None
    dtype = plain_dtype(descr, name)
    claimed = end + count_elements(shape, name) * dtype.itemsize
    require(claimed == len(content), f"{name} claims {claimed} bytes, it has {len(content)}")
    return np.frombuffer(content, dtype, offset=end).reshape(shape, order="F" if is_fortran == "True" else "C")
