"""Checkpoint files that want more than to be read, as bytes by name: written opcode by opcode, nothing of it ever runs.

Most would create the file PWNED where an unpickler loads them.
"""

import io
import json
import struct
import zipfile
from collections.abc import Iterator

import numpy as np

COMMAND = b"X\x0b\x00\x00\x00touch PWNED"
CALL = b"\x85R."  # a tuple of one, REDUCE, STOP


def text(value: str) -> bytes:
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{attribute}\n".encode()


def number(value: int) -> bytes:
    """LONG1."""
    data = value.to_bytes(max(1, (value.bit_length() + 8) // 8), "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def pickles() -> Iterator[tuple[str, bytes]]:
    """Pickles by what they try."""
    for module, attribute in (
        *(("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("builtins", "eval")),
        *(("builtins", "exec"), ("__builtin__", "eval"), ("builtins", "getattr"), ("builtins", "__import__")),
        *(("importlib", "import_module"), ("numpy", "load"), ("torch", "load"), ("torch.storage", "_load_from_bytes")),
        *(("copyreg", "_reconstructor"), ("shutil", "rmtree"), ("pickle", "loads"), ("numpy.f2py", "compile")),
        ("torch._utils._rebuild_tensor_v2.__globals__", "get"),
    ):
        yield f"global_{module}.{attribute}", b"\x80\x02" + name(module, attribute) + COMMAND + CALL
    yield "stack_global", b"\x80\x04" + text("os") + text("system") + b"\x93" + COMMAND + CALL
    yield "stack_global_dotted", b"\x80\x04" + text("collections") + text("OrderedDict.__class__") + b"\x93)R."
    yield "stack_global_of_no_text", b"\x80\x04K\x01K\x02\x93."
    yield "inst", b"(" + COMMAND + b"ios\nsystem\n."
    yield "obj", b"(" + name("os", "system") + COMMAND + b"o."
    yield "newobj", b"\x80\x02" + name("os", "system") + COMMAND + b"\x85\x81."
    yield "newobj_of_allowed_name", b"\x80\x02" + name("collections", "OrderedDict") + b")\x81."
    yield "newobj_ex", b"\x80\x04" + name("os", "system") + COMMAND + b"\x85}\x92."
    for code, size in ((b"\x82", 1), (b"\x83", 2), (b"\x84", 4)):
        yield f"ext{size}", b"\x80\x02" + code + b"\x01".ljust(size, b"\0") + b"."
    yield "persid", b"Pos.system\n."
    yield "binpersid", b"\x80\x02" + text("os.system") + b"Q."
    yield "build_on_text", b"\x80\x02" + text("a") + b"}b."
    yield "build_on_list", b"\x80\x02]}b."
    yield "build_setstate", b"\x80\x02" + name("numpy", "ndarray") + b"}b."
    yield "reduce_of_text", b"\x80\x02" + text("os.system") + COMMAND + CALL
    yield "reduce_with_list", b"\x80\x02" + name("collections", "OrderedDict") + b"]R."
    yield "ordered_dict_of_junk", b"\x80\x02" + name("collections", "OrderedDict") + b"K\x05" + CALL
    yield "tensor_without_storage", b"\x80\x02" + name("torch._utils", "_rebuild_tensor_v2") + b"(K\x00K\x00))tR."
    yield (
        "array_of_other_class",
        (
            b"\x80\x02"
            + name("numpy.core.multiarray", "_reconstruct")
            + name("torch", "Size")
            + b"K\x00\x85C\x01b\x87R."
        ),
    )
    yield "object_dtype", b"\x80\x02" + name("numpy", "dtype") + text("O8") + b"K\x00K\x01\x87R."
    yield "structured_dtype", b"\x80\x02" + name("numpy", "dtype") + text("V8") + b"K\x00K\x01\x87R."
    yield "long_dtype", b"\x80\x02" + name("numpy", "dtype") + text("f4," * 10_000) + b"K\x00K\x01\x87R."
    yield "other_codec", b"\x80\x02" + name("_codecs", "encode") + text("a") + text("rot13") + b"\x86R."
    yield "next_buffer", b"\x80\x05\x97."
    yield "readonly_buffer", b"\x80\x05\x97\x98."
    yield "memo_bomb", b"\x80\x02Nr\xff\xff\xff\x7f."
    yield "put_bomb", b"Np99999999999999999999\n."
    yield "get_unknown", b"\x80\x02h\x07."
    for label, code in (("unicode8", b"\x8d"), ("bytes8", b"\x8e"), ("bytearray8", b"\x96"), ("frame", b"\x95")):
        yield f"length_{label}", b"\x80\x05" + code + struct.pack("<Q", 2**62) + b"abc"
    yield "length_long4", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc"
    yield "negative_long4", b"\x80\x02\x8b" + struct.pack("<i", -5) + b"abc"
    yield "long_decimal", b"L" + b"9" * 100_000 + b"L\n."
    yield "deep_lists", b"\x80\x02" + b"]" * 250_000 + b"a" * 249_999 + b"."
    yield "deep_tuples", b"\x80\x02)" + b"\x85" * 250_000 + b"."
    yield "tuple_as_key", b"\x80\x02})" + b"q\x00h\x00\x86" * 200 + b"Ns."
    yield "tuple_in_set", b"\x80\x04\x8f()" + b"q\x00h\x00\x86" * 200 + b"\x90."
    yield "billion_laughs", b"\x80\x02]" + b"q\x00](h\x00h\x00e" * 200 + b"."
    yield "opcode_flood", b"\x80\x02" + b"N0" * 3_000_000 + b"N."
    yield "itself", b"\x80\x02}q\x00" + text("a") + b"h\x00s."
    yield "no_end", b"\x80\x02}"
    yield "protocol_9", b"\x80\x09}."
    yield "stack_underflow", b"\x80\x02a."
    yield "no_mark", b"\x80\x02Nt."


def torch_pickle(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], kind: str = "Float") -> bytes:
    """A state dict of one tensor over the storage "0"."""
    storage = b"(" + text("storage") + name("torch", f"{kind}Storage") + text("0") + text("cpu") + number(numel) + b"tQ"
    shape = b"(" + b"".join(map(number, size)) + b"t" + b"(" + b"".join(map(number, stride)) + b"t"
    tensor = name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + number(offset) + shape + b"\x89)tR"
    return b"\x80\x02}" + text("w") + tensor + b"s."


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return file.getvalue()


def torch_zip(pickle: bytes, storage: bytes = bytes(16), **others: bytes) -> bytes:
    """A torch file of this structure, with one storage."""
    return zipped({"a/data.pkl": pickle, "a/data/0": storage, **{f"a/{key}": value for key, value in others.items()}})


GOOD = torch_pickle(4, 0, (2, 2), (2, 1))


def torch_files() -> Iterator[tuple[str, bytes]]:
    """torch files by what they lie about."""
    yield "code", torch_zip(b"\x80\x02" + name("os", "system") + COMMAND + CALL)
    for label, arguments in {
        "numel_larger": (5, 0, (2, 2), (2, 1)),
        "numel_smaller": (3, 0, (1,), (1,)),
        "numel_huge": (2**62, 0, (2, 2), (2, 1)),
        "numel_negative": (-4, 0, (2, 2), (2, 1)),
        "size_negative": (4, 0, (-2, 2), (2, 1)),
        "size_beyond": (4, 0, (3, 2), (2, 1)),
        "size_overflows": (4, 0, (2**32, 2**32), (0, 0)),
        "expansion": (4, 0, (10**9,), (0,)),
        "stride_negative": (4, 3, (2,), (-1,)),
        "stride_beyond": (4, 0, (2,), (2**40,)),
        "stride_missing": (4, 0, (2, 2), (1,)),
        "offset_negative": (4, -1, (2,), (1,)),
        "offset_beyond": (4, 4, (1,), (1,)),
        "many_dimensions": (4, 0, (1,) * 200, (1,) * 200),
    }.items():
        yield label, torch_zip(torch_pickle(*arguments))
    yield "unknown_storage", torch_zip(torch_pickle(4, 0, (2, 2), (2, 1), kind="Quantized"))
    yield "missing_storage", zipped({"a/data.pkl": GOOD})
    yield "big_endian", torch_zip(GOOD, byteorder=b"big")
    yield "two_structures", zipped({"a/data.pkl": GOOD, "b/data.pkl": GOOD, "a/data/0": bytes(16)})
    yield "compressed", zipped({"a/data.pkl": GOOD, "a/data/0": bytes(16)}, zipfile.ZIP_DEFLATED)
    yield "compressed_bomb", zipped({"a/data.pkl": GOOD, "a/data/0": bytes(300_000_000)}, zipfile.ZIP_DEFLATED)
    good = torch_zip(GOOD)
    yield "wrong_checksum", good.replace(bytes(16), b"\x01" + bytes(15), 1)
    yield "truncated", good[: len(good) // 2]
    yield "encrypted", good.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    central = good.index(b"PK\x01\x02", good.index(b"PK\x01\x02") + 4)
    yield "size_lies", good[: central + 20] + struct.pack("<II", 10**9, 10**9) + good[central + 28 :]
    yield "offset_lies", good[: central + 42] + struct.pack("<I", 2**31) + good[central + 46 :]
    tensor = torch_pickle(2**18, 0, (2**18,), (1,))
    body = tensor[3 : tensor.index(b"s.")]
    many = b"\x80\x02}" + b"".join(body.replace(text("w"), text(f"w{i}")) + b"s" for i in range(3000)) + b"."
    yield "many_views_of_one_storage", torch_zip(many, bytes(2**20))
    yield "path_traversal", zipped({"../../PWNED": b"x", "a/data.pkl": b"\x80\x02N."})


def arrays() -> Iterator[tuple[str, bytes]]:
    """.npz and safetensors files by what they lie about."""

    def npy(header: str, content: bytes = b"") -> bytes:
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content

    for label, header in {
        "huge": "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n",
        "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }\n",
        "code": "{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').system('touch PWNED'),), }\n",
        "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }\n",
        "structured": "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }\n",
        "long": "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }" + " " * 60_000 + "\n",
        "short": "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }\n",
    }.items():
        yield f"npy_{label}.npz", zipped({"w.npy": npy(header, bytes(16))})
    yield "no_array.npz", zipped({"w.txt": b"text", "v.npy": b"nothing"})
    bomb = io.BytesIO()
    np.savez_compressed(bomb, w=np.zeros(25_000_000, np.float32))
    yield "bomb.npz", bomb.getvalue()

    def safetensors(header: object, content: bytes = bytes(16), length: int | None = None) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + content

    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    yield "beyond.safetensors", safetensors({"w": entry | {"data_offsets": [0, 1 << 40]}})
    yield "shape.safetensors", safetensors({"w": entry | {"shape": [2**40]}})
    yield "overlap.safetensors", safetensors({"w": entry, "v": entry})
    yield "header.safetensors", safetensors({"w": entry}, length=2**60)
    yield "dtype.safetensors", safetensors({"w": entry | {"dtype": "OBJECT"}})
    yield "deep.safetensors", struct.pack("<Q", 100_001) + b"{" + b"[" * 100_000
    yield "negative.safetensors", safetensors({"w": entry | {"data_offsets": [-16, 0]}})


def no_checkpoints() -> Iterator[tuple[str, bytes]]:
    """What people download instead of a checkpoint."""
    yield "empty", b""
    yield "page.html", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 178090079\n"
    yield "text", b"weights"
    yield "no_arrays", b"\x80\x02}" + text("epoch") + b"K\x05s."


def all_files() -> dict[str, bytes]:
    """Every hostile or wrong file by name."""
    families = {"pickle": pickles, "torch": torch_files, "arrays": arrays, "none": no_checkpoints}
    return {f"{family}_{label}": content for family, make in families.items() for label, content in make()}
