"""Hand-made files for the reader's tests: pickles opcode by opcode, archives byte by byte. Nothing of them runs."""

import io
import json
import pickle
import struct
import zipfile
from typing import Any, NamedTuple

COMMAND = "touch PWNED"
"""What the hostile files would run."""


class Case(NamedTuple):
    """A file that is to be refused."""

    name: str
    content: bytes
    reason: str
    """Pattern of the error, so that no file is refused for another reason than its own."""


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """LONG1, or LONG4 for the huge."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) < 256:
        return pickle.LONG1 + bytes([len(data)]) + data
    return pickle.LONG4 + struct.pack("<i", len(data)) + data


def raw(value: bytes) -> bytes:
    """BINBYTES."""
    return pickle.BINBYTES + struct.pack("<I", len(value)) + value


def tuple_of(*items: bytes) -> bytes:
    """MARK, the items, TUPLE."""
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def integers(*values: int) -> bytes:
    """A tuple of numbers."""
    return tuple_of(*map(integer, values))


def name(dotted: str) -> bytes:
    """GLOBAL of `module.name`."""
    module, _, attribute = dotted.rpartition(".")
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def stack_name(module: bytes, attribute: bytes) -> bytes:
    """STACK_GLOBAL of two values."""
    return module + attribute + pickle.STACK_GLOBAL


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return function + tuple_of(*arguments) + pickle.REDUCE


def put(index: int) -> bytes:
    return pickle.LONG_BINPUT + struct.pack("<I", index)


def get(index: int) -> bytes:
    return pickle.LONG_BINGET + struct.pack("<I", index)


def table(*items: bytes, protocol: int = 2) -> bytes:
    """A pickle of {"w": item} or {"w0": ..., "w1": ...}."""
    names = ["w"] if len(items) == 1 else [f"w{index}" for index in range(len(items))]
    pairs = b"".join(text(key) + item for key, item in zip(names, items, strict=True))
    return start(protocol) + pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS + pickle.STOP


def start(protocol: int = 2) -> bytes:
    return pickle.PROTO + bytes([protocol])


def numpy_array(
    shape: bytes | None = None,
    data: bytes | None = None,
    code: str = "f4",
    order: bytes | None = None,
    fields: bytes = pickle.NONE,
    kind: str = "numpy.ndarray",
) -> bytes:
    """An array of four numbers as NumPy pickles it, or as the arguments have it."""
    order = text("<") if order is None else order
    state = tuple_of(*map(integer, [3]), order, pickle.NONE, pickle.NONE, fields, *map(integer, [-1, -1, 0]))
    dtype = call(name("numpy.dtype"), text(code), integer(0), integer(1)) + state + pickle.BUILD
    array = call(name("numpy.core.multiarray._reconstruct"), name(kind), integers(0), raw(b"b"))
    shape = integers(4) if shape is None else shape
    data = raw(bytes(16)) if data is None else data
    return array + tuple_of(integer(1), shape, dtype, pickle.NEWFALSE, data) + pickle.BUILD


def storage(numel: bytes | None = None, kind: str = "torch.FloatStorage", key: bytes | None = None) -> bytes:
    """The persistent id of a storage of four numbers."""
    key = text("0") if key is None else key
    numel = integer(4) if numel is None else numel
    return tuple_of(text("storage"), name(kind), key, text("cpu"), numel) + pickle.BINPERSID


def tensor(
    size: tuple[int, ...] = (2, 2),
    stride: tuple[int, ...] = (2, 1),
    offset: int = 0,
    numel: int = 4,
    of: bytes | None = None,
) -> bytes:
    """A torch tensor over a storage."""
    of = storage(integer(numel)) if of is None else of
    hooks = call(name("collections.OrderedDict"))
    arguments = (of, integer(offset), integers(*size), integers(*stride), pickle.NEWFALSE, hooks)
    return call(name("torch._utils._rebuild_tensor_v2"), *arguments)


def zipped(entries: dict[str, bytes] | list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for entry, content in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(entry, content)
    return file.getvalue()


def torch_zip(structure: bytes, data: bytes = bytes(16), **others: bytes) -> bytes:
    """A torch file with one storage."""
    return zipped({"a/data.pkl": structure, "a/data/0": data, **{f"a/{key}": value for key, value in others.items()}})


def torch_legacy(
    structure: bytes,
    keys: bytes | None = None,
    head: bytes = struct.pack("<q", 4),
    data: bytes = bytes(16),
    version: bytes = pickle.BININT2 + struct.pack("<H", 1001),
    system: bytes = pickle.EMPTY_DICT + text("little_endian") + pickle.NEWTRUE + pickle.SETITEM,
) -> bytes:
    """A file of torch before 1.6 with one storage."""
    magic = start() + integer(0x1950A86A20F9469CFC6C) + pickle.STOP
    keys = pickle.EMPTY_LIST + text("0") + pickle.APPEND if keys is None else keys
    pickles = [start() + part + pickle.STOP for part in (version, system)]
    return b"".join([magic, *pickles, structure, start() + keys + pickle.STOP, head, data])


def npy(shape: str = "(4,)", descr: str = "'<f4'", data: bytes = bytes(16), header: str | None = None) -> bytes:
    """A .npy file."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n" if header is None else header
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def safetensors(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    """A safetensors file; the header is a text or what JSON can write."""
    written = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(written) if length is None else length) + written + data
