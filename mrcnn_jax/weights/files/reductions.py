"""Our own functions for the names that a checkpoint's pickle may use. They check their arguments.

The pickles of torch and NumPy build arrays by calling a few functions. Each of these is replaced by one of this module.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mrcnn_jax.weights.files import inert
from mrcnn_jax.weights.files.tensors import (
    STORAGE_DTYPES,
    Storage,
    Tensor,
    count_elements,
    is_key,
    plain_dtype,
    require,
)

STORAGE_NAMES = frozenset(STORAGE_DTYPES)
TORCH_DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
TENSOR_TYPES = frozenset({("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer")})
INERT = frozenset(
    {
        *(("numpy", "ndarray"), ("torch", "device"), ("torch", "Size")),
        *TENSOR_TYPES,
        *(("torch", name) for name in TORCH_DTYPES),
        *((module, name) for module in ("builtins", "__builtin__") for name in ("list", "dict", "int", "float", "str")),
    }
)
"""Names that may be passed as arguments but not called."""


class Global(NamedTuple):
    """A name in a pickle: two strings, never the object."""

    module: str
    name: str

    @property
    def is_inert(self) -> bool:
        """Whether the name may be used as an argument."""
        return self in INERT


class Buildable:
    """An object that the pickle completes with the opcode BUILD."""

    def build(self, state: Any) -> None:
        """Sets the state. Raises FileError if it is not in NumPy's format."""
        raise NotImplementedError


class Dtype(Buildable):
    """A NumPy dtype of plain numbers or bools."""

    def __init__(self, code: Any) -> None:
        self.dtype = plain_dtype(code, "an array")

    def build(self, state: Any) -> None:
        is_plain = isinstance(state, tuple) and len(state) >= 5 and all(part is None for part in state[2:5])
        require(is_plain, "an array type has fields, which is not allowed")
        require(isinstance(state[1], str) and state[1] in ("<", ">", "|", "="), "an array's byte order is unknown")
        self.dtype = self.dtype.newbyteorder(state[1])


class PendingArray(Buildable):
    """A NumPy array without content until `build` is called."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        require(isinstance(state, tuple) and len(state) in (4, 5), "an array has an invalid state")
        shape, dtype, is_fortran, data = state[-4:]
        self.array = _filled(data, dtype, shape, "F" if is_fortran else "C")


def _filled(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    require(isinstance(dtype, Dtype), "an array has an invalid type")
    if isinstance(data, str):  # bytes from Python 2
        data = data.encode("latin-1")
    require(isinstance(data, (bytes, bytearray)), "an array holds objects, which is not allowed")
    count = count_elements(shape, "an array")
    expected = count * dtype.dtype.itemsize
    require(len(data) == expected, f"an array has {len(data)} bytes instead of {expected}")
    return np.frombuffer(data, dtype.dtype).reshape(tuple(shape), order=order)  # type: ignore[call-overload]


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> PendingArray:
    require(isinstance(kind, Global) and kind == ("numpy", "ndarray"), "an array has another class than numpy.ndarray")
    return PendingArray()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    require(isinstance(order, str) and order in ("C", "F"), "an array has an invalid order")
    return _filled(data, dtype, shape, order)


def _scalar(dtype: Any, data: Any) -> np.ndarray:
    return _filled(data, dtype, (), "C")


def _encode(text: Any, encoding: Any) -> bytes:
    is_latin = isinstance(text, str) and isinstance(encoding, str) and encoding in ("latin1", "latin-1")
    require(is_latin, "bytes are not in Python's format")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    require(isinstance(storage, Storage), "a tensor has no storage")
    require(isinstance(size, tuple) and isinstance(stride, tuple), "a tensor has an invalid shape")
    return Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: Any, *_: Any) -> Tensor:
    require(isinstance(tensor, Tensor), "a parameter is not a tensor")
    return tensor


def _make_dict(items: Any = ()) -> dict[Any, Any]:
    pairs = isinstance(items, list) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and is_key(pair[0]) for pair in items
    )
    require(pairs or (isinstance(items, tuple) and not items), "an OrderedDict is not in Python's format")
    return {key: value for key, value in items}


def _make_set(items: Any = ()) -> set[Any]:
    is_plain = isinstance(items, (list, tuple)) and all(map(is_key, items))
    require(is_plain, "a set has elements that are not plain values")
    return set(items)


def _make_defaultdict(factory: Any = None, *_: Any) -> dict[Any, Any]:
    require(factory is None or isinstance(factory, Global), "a defaultdict is not in Python's format")
    return {}


def _rebuild_typed(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """Replaces the function that restores a tensor with Python attributes, which are dropped."""
    is_known = isinstance(function, Global) and function in REBUILDS and isinstance(kind, Global)
    require(is_known and kind in TENSOR_TYPES and isinstance(arguments, tuple), "a tensor is not in torch's format")
    return REBUILDS[function](*arguments)


def _ignore(*_: Any) -> None:
    """Replaces torch.device: the device of a tensor is not needed."""


REBUILDS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}
"""The functions that restore a tensor."""

REDUCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _make_dict,
    ("collections", "defaultdict"): _make_defaultdict,
    **inert.PLAIN,
    **{(module, kind): _make_set for module in ("builtins", "__builtin__") for kind in ("set", "frozenset")},
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
    ("_codecs", "encode"): _encode,
    ("torch", "Size"): lambda sides=(): tuple(sides) if isinstance(sides, (list, tuple)) else (),
    ("torch", "device"): _ignore,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_typed,
    **REBUILDS,
    ("numpy", "dtype"): lambda code, *_: Dtype(code),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}
"""The functions that a pickle may call, by module and name."""
