"""Arrays as described by foreign files. Descriptions are checked before the content is read."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_DIMENSIONS = 32
MAX_INTEGER = 2**63
"""Integers in a pickle may have millions of digits; multiplying or hashing them would take unbounded time."""
SLACK = 2**20
"""Bytes that arrays may take beyond twice the file's size (float16 becomes float32)."""
PACKED_RATIO, PACKED_SLACK = 8, 2**26
"""The same for deflated entries: rounded weights shrink to a fifth, and constants to almost nothing."""

STORAGE_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
"""Element types of torch's storage classes."""


PLAIN_CODE = re.compile(r"[<>|=]?[fiub][1248]")
"""NumPy's type codes for plain numbers. Other codes are refused, since NumPy evaluates parts of them."""


class FileError(Exception):
    """A fault in a file. The reader adds the file's path to the message."""


def require(condition: bool, message: str) -> None:
    """Raises FileError with the message unless the condition holds.

    The message is always formatted, so it must not contain values that a file may nest or repeat without bound.
    """
    if not condition:
        raise FileError(message)


def is_count(value: Any) -> bool:
    """Returns whether the value is an integer of at least 0 that fits into 64 bits."""
    return type(value) is int and 0 <= value < MAX_INTEGER


def is_key(value: Any) -> bool:
    """Returns whether hashing the value is fast, unlike that of nested tuples or huge integers."""
    if isinstance(value, int):
        return abs(value) < MAX_INTEGER
    return value is None or isinstance(value, (str, bytes, float))


def plausible_size(file_size: int, *, is_packed: bool = False) -> int:
    """Returns the most bytes that the arrays of a file may take, which is more if the file may be compressed."""
    return PACKED_RATIO * file_size + PACKED_SLACK if is_packed else 2 * file_size + SLACK


def count_elements(shape: Sequence[int], what: str) -> int:
    """Returns the product of the sides. Raises FileError if the shape is invalid."""
    is_shape = isinstance(shape, (tuple, list)) and len(shape) <= MAX_DIMENSIONS and all(map(is_count, shape))
    require(is_shape, f"{what} has an invalid shape")
    return math.prod(shape)


def raw_itemsize(dtype: str) -> int:
    """Returns the size of an element in bytes."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def array_of(data: Any, dtype: str, what: str) -> np.ndarray:
    """Returns a flat array over the bytes, without a copy if NumPy has the type."""
    require(len(data) % raw_itemsize(dtype) == 0, f"{what} has {len(data)} bytes, not a multiple of its element size")
    if dtype != "bfloat16":
        return np.frombuffer(data, dtype)
    return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")  # the upper half of a float32


def as_plain(array: np.ndarray) -> np.ndarray:
    """Returns the array in the machine's byte order, with floats as float32."""
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a float64 out of range becomes infinite, which the importer reports
            return array.astype(np.float32, copy=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_dtype(dtype: np.dtype, what: str) -> None:
    """Raises FileError unless the elements are plain numbers or bools."""
    if dtype.kind not in "fiub" or dtype.itemsize > 8:  # not `require`: formatting a dtype is slow
        raise FileError(f"{what} has {dtype} elements, but only plain numbers are supported")


def plain_dtype(code: Any, what: str) -> np.dtype:
    """Returns NumPy's type for this code. Raises FileError unless its elements are plain numbers or bools."""
    require(isinstance(code, str) and PLAIN_CODE.fullmatch(code) is not None, f"{what} does not contain plain numbers")
    try:
        dtype = np.dtype(code)
    except TypeError:  # f1, b4
        raise FileError(f"{what} has an unknown type") from None
    check_dtype(dtype, what)
    return dtype


@dataclass
class Budget:
    """The number of bytes that arrays may still take, so that many views of few bytes cannot fill the memory."""

    left: int

    def spend(self, num_bytes: int) -> None:
        """Subtracts `num_bytes`. Raises FileError if fewer are left."""
        self.left -= num_bytes
        require(self.left >= 0, "its arrays are larger than the file")


@dataclass
class Storage:
    """A sequence of elements, of which tensors are views. It is read when it is first used."""

    dtype: str
    numel: int
    what: str
    read: Callable[[], Any] | None = None
    """Returns the bytes."""
    _array: np.ndarray | None = field(default=None, repr=False)

    def array(self) -> np.ndarray:
        """Returns all elements."""
        if self._array is None:
            require(self.read is not None, f"{self.what} is not in the file")
            assert self.read is not None
            data = self.read()
            expected = self.numel * raw_itemsize(self.dtype)
            require(len(data) == expected, f"{self.what} has {len(data)} bytes instead of {expected}")
            self._array = array_of(data, self.dtype, self.what)
        return self._array


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        what = f"a tensor in {self.storage.what}"
        count = count_elements(self.size, what)
        is_strided = isinstance(self.stride, tuple) and len(self.stride) == len(self.size)
        require(is_strided and all(map(is_count, self.stride)), f"{what} has invalid strides")
        require(is_count(self.offset), f"{what} has an invalid offset")
        last = self.offset + sum((side - 1) * step for side, step in zip(self.size, self.stride, strict=True))
        fits = last < self.storage.numel and count <= self.storage.numel
        require(count == 0 or fits, f"{what} extends beyond it")

    def array(self) -> np.ndarray:
        """Returns the elements, [*size]."""
        if 0 in self.size:
            return np.zeros(self.size, np.float32 if self.storage.dtype == "bfloat16" else self.storage.dtype)
        flat = self.storage.array()
        # The stride of a side of 1 is unused, so it was not checked, and its bytes may not fit into 64 bits.
        steps = [step if side > 1 else 1 for side, step in zip(self.size, self.stride, strict=True)]
        strides = [step * flat.itemsize for step in steps]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.size, strides, writeable=False)
        return view if view.flags.c_contiguous else np.ascontiguousarray(view)
