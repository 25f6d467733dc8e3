"""Arrays as foreign files describe them, checked before a byte of theirs is touched."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_DIMENSIONS = 32
MAX_INTEGER = 2**63
"""Multiplying or hashing the integers of a pickle, which may have millions of digits, takes time without bound."""
SLACK = 2**20
"""Bytes of arrays beyond twice the file's size (float16 doubles) that are still plausible."""
PACKED_RATIO, PACKED_SLACK = 8, 2**26
"""The same where entries are deflated: rounded weights shrink to a fifth, constants to nothing."""

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
"""torch's storage classes."""


PLAIN_CODE = re.compile(r"[<>|=]?[fiub][1248]")
"""NumPy's codes of plain numbers. It evaluates parts of other codes."""


class FileError(Exception):
    """What is wrong with a file; the reader adds which file."""


def require(condition: bool, message: str) -> None:
    """Raises FileError with the message unless the condition holds.

    The message is made in any case, so it must not contain what a file may nest or repeat without bound.
    """
    if not condition:
        raise FileError(message)


def is_count(value: Any) -> bool:
    """Whether the value is a whole number from 0 on that fits into 64 bits."""
    return type(value) is int and 0 <= value < MAX_INTEGER


def is_key(value: Any) -> bool:
    """Whether the value is hashed in no time: a nest of tuples or a huge number is not."""
    if isinstance(value, int):
        return abs(value) < MAX_INTEGER
    return value is None or isinstance(value, (str, bytes, float))


def plausible_size(file_size: int, *, is_packed: bool = False) -> int:
    """The most bytes that the arrays of a file may take; more if the file may be compressed."""
    return PACKED_RATIO * file_size + PACKED_SLACK if is_packed else 2 * file_size + SLACK


def count_elements(shape: Sequence[int], what: str) -> int:
    """The product of the sides; FileError for a shape that is none."""
    is_shape = isinstance(shape, (tuple, list)) and len(shape) <= MAX_DIMENSIONS and all(map(is_count, shape))
    require(is_shape, f"{what} has no proper shape")
    return math.prod(shape)


def raw_itemsize(dtype: str) -> int:
    """Bytes of an element."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def array_of(data: Any, dtype: str, what: str) -> np.ndarray:
    """A flat array over the bytes, without a copy where NumPy knows the type."""
    require(len(data) % raw_itemsize(dtype) == 0, f"{what} has {len(data)} bytes, no multiple of its element's")
    if dtype != "bfloat16":
        return np.frombuffer(data, dtype)
    return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")  # the upper half of a float32


def as_plain(array: np.ndarray) -> np.ndarray:
    """The array in the machine's byte order, floats as float32."""
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a float64 out of range becomes infinite, which the importer reports
            return array.astype(np.float32, copy=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_dtype(dtype: np.dtype, what: str) -> None:
    """FileError unless elements are plain numbers or bools."""
    if dtype.kind not in "fiub" or dtype.itemsize > 8:  # the message is made for them alone: a type's name is slow
        raise FileError(f"{what} holds {dtype} elements: only plain numbers are read")


def plain_dtype(code: Any, what: str) -> np.dtype:
    """NumPy's type of this code; FileError unless elements are plain numbers or bools."""
    require(isinstance(code, str) and PLAIN_CODE.fullmatch(code) is not None, f"{what} is of no plain numbers")
    try:
        dtype = np.dtype(code)
    except TypeError:  # f1, b4
        raise FileError(f"{what} is of an unknown type") from None
    check_dtype(dtype, what)
    return dtype


@dataclass
class Budget:
    """Bytes that arrays may still take, so that many views of few bytes cannot fill the memory."""

    left: int

    def spend(self, num_bytes: int) -> None:
        """Takes bytes; FileError if there are not so many."""
        self.left -= num_bytes
        require(self.left >= 0, "its arrays are larger than the file")


@dataclass
class Storage:
    """A run of elements that tensors are views of; read at the first use."""

    dtype: str
    numel: int
    what: str
    read: Callable[[], Any] | None = None
    """Returns the bytes."""
    _array: np.ndarray | None = field(default=None, repr=False)

    def array(self) -> np.ndarray:
        """All elements."""
        if self._array is None:
            require(self.read is not None, f"{self.what} is not in the file")
            assert self.read is not None
            data = self.read()
            expected = self.numel * raw_itemsize(self.dtype)
            require(len(data) == expected, f"{self.what} has {len(data)} bytes, {expected} are claimed")
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
        require(is_strided and all(map(is_count, self.stride)), f"{what} has no proper strides")
        require(is_count(self.offset), f"{what} has no proper offset")
        last = self.offset + sum((side - 1) * step for side, step in zip(self.size, self.stride, strict=True))
        fits = last < self.storage.numel and count <= self.storage.numel
        require(count == 0 or fits, f"{what} reaches beyond it")

    def array(self) -> np.ndarray:
        """The elements, [*size]."""
        if 0 in self.size:
            return np.zeros(self.size, np.float32 if self.storage.dtype == "bfloat16" else self.storage.dtype)
        flat = self.storage.array()
        # No step is made along a side of 1, so its stride was not checked and may not fit into 64 bits.
        steps = [step if side > 1 else 1 for side, step in zip(self.size, self.stride, strict=True)]
        strides = [step * flat.itemsize for step in steps]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.size, strides, writeable=False)
        return view if view.flags.c_contiguous else np.ascontiguousarray(view)
