"""NumPy's and safetensors' files whose headers are lies, and files that are no checkpoints at all."""

import functools
import io
import struct
import zipfile
from collections.abc import Iterator

import numpy as np

from tests.weights.files.craft import Case, npy, safetensors, zipped


@functools.cache
def all_arrays() -> tuple[Case, ...]:
    families = (_npz, _safetensors, _others)
    return tuple(case._replace(name=f"{make.__name__}_{case.name}") for make in families for case in make())


def _npz() -> Iterator[Case]:
    code = "__import__('os').system('touch PWNED')"
    for label, content, reason in (
        ("huge", npy("(1099511627776,)"), "bytes instead of"),
        ("wraps", npy("(4294967296, 4294967296)"), "bytes instead of"),
        ("too_large", npy("(9223372036854775808,)"), "an invalid shape"),
        ("digits", npy(f"({'9' * 650},)"), "an invalid shape"),
        ("negative", npy("(-4,)"), "the header of .* is not in NumPy's format"),
        ("short", npy("(5,)"), "bytes instead of"),
        ("long", npy("(3,)"), "bytes instead of"),
        ("empty_but_huge", npy("(0, 9223372036854775807, 9223372036854775807)", data=b""), "dimension|too big|large"),
        ("dimensions", npy(f"({'1, ' * 60})", data=bytes(4)), "an invalid shape"),
        ("spaces", npy("(1 2,)"), "invalid"),
        ("code_in_shape", npy(f"({code},)"), "the header of .* is not in NumPy's format"),
        ("code_in_type", npy(descr=code), "the header of .* is not in NumPy's format"),
        ("code_as_header", npy(header=code), "the header of .* is not in NumPy's format"),
        ("nested", npy(header="(" * 5000), "the header of .* is not in NumPy's format"),
        ("unary", npy(f"({'-' * 5000}4,)"), "the header of .* is not in NumPy's format"),
        ("padded", npy(header=npy()[10:-16].decode() + " " * 60_000), "the header of .* is not in NumPy's format"),
        ("spaces_forever", npy(header="{" + " " * 9000), "the header of .* is not in NumPy's format"),
        ("sides_forever", npy(f"({',' * 9000})"), "the header of .* is not in NumPy's format"),
        ("duplicate_key", npy("(4,), 'shape': (2,)"), "the header of .* is not in NumPy's format"),
        ("object", npy(descr="'|O'"), "does not contain plain numbers"),
        ("object_sized", npy(descr="'|O8'"), "does not contain plain numbers"),
        ("structured", npy(descr="[('a', '<f4')]"), "the header of .* is not in NumPy's format"),
        ("void", npy(descr="'|V4'"), "does not contain plain numbers"),
        ("unknown_type", npy(descr="'<f7'"), "does not contain plain numbers"),
        ("unknown_width", npy(descr="'<f1'"), "unknown type"),
        ("evaluated_type", npy(descr="'<(9,9)f4'"), "does not contain plain numbers"),
        ("type_list", npy(descr="'<f4,<f4'"), "does not contain plain numbers"),
        ("version", npy().replace(b"NUMPY\x01", b"NUMPY\x03"), "known version"),
        ("magic", b"nothing", "known version"),
        ("empty", b"", "known version"),
        ("header_cut", npy()[:40], "the header of .* is not in NumPy's format"),
        ("header_length", npy()[:8] + b"\xff\xff" + npy()[10:], "the header of .* is not in NumPy's format"),
        ("pickle", np_bytes(np.array([None], object)), "does not contain plain numbers"),
    ):
        yield Case(label, zipped({"w.npy": content}), reason)
    yield Case("no_array", zipped({"w.txt": b"text"}), "not an array")
    yield Case("no_entries", b"PK\x05\x06" + bytes(18), "not match any known format")
    yield Case("traversal", zipped({"../../PWNED": b"text"}), "not an array")
    for label, compression in {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}.items():
        yield Case(label, zipped({"w.npy": npy()}, compression), "compression is not supported")
    noise = np.random.default_rng(0).bytes(2**20)  # so that it unpacks to less than a hundredfold
    yield Case("bomb_of_less", zipped({"w": noise, "w.npy": bytes(9 * 10**7)}, zipfile.ZIP_DEFLATED), "unpacks to")
    bomb = zipped({"w.npy": npy("(57500000,)", data=bytes(23 * 10**7))}, zipfile.ZIP_DEFLATED)
    yield Case("bomb", bomb, "unpacks to")
    record = bomb.rindex(b"PK\x01\x02")
    small = bomb[: record + 24] + struct.pack("<I", 80) + bomb[record + 28 :]
    yield Case("bomb_called_small", small, "w.npy")
    packed = bomb[: record + 20] + struct.pack("<I", 2**32 - 2) + bomb[record + 24 :]
    yield Case("bomb_called_packed", packed, "unpacks to")
    broken = bytearray(zipped({"w.npy": np_bytes(np.random.default_rng(0).random(100))}, zipfile.ZIP_DEFLATED))
    broken[60:70] = b"\xff" * 10
    yield Case("broken_stream", bytes(broken), "w.npy")


def np_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def _safetensors() -> Iterator[Case]:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}

    def changed(**values: object) -> bytes:
        return safetensors({"w": entry | values})

    one = '"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'
    empty = '"w":{"dtype":"F32","shape":[0],"data_offsets":[16,16]}'
    for label, content in {
        "beyond": changed(data_offsets=[0, 2**40]),
        "beyond_all": changed(data_offsets=[0, 2**64 - 1]),
        "overflow": changed(data_offsets=[0, 2**70]),
        "negative": changed(data_offsets=[-16, 0]),
        "reversed": changed(data_offsets=[16, 0]),
        "gap": changed(data_offsets=[4, 20]),
        "shape_huge": changed(shape=[2**40]),
        "shape_wraps": changed(shape=[2**32, 2**32, 4]),
        "shape_negative": changed(shape=[-4]),
        "shape_text": changed(shape="4"),
        "shape_zero": changed(shape=[0, 2**63]),
        "type": changed(dtype="OBJECT"),
        "type_fp8": safetensors({"w": {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}}),
        "overlap": safetensors({"w": entry, "v": entry}),
        "trailing": safetensors({"w": entry}, bytes(17)),
        "cut": safetensors({"w": entry}, bytes(15)),
        "length_huge": safetensors({"w": entry}, length=2**60),
        "length_all": safetensors({"w": entry}, length=2**64 - 1),
        "length_short": safetensors({"w": entry}, length=10),
        "length_zero": safetensors({"w": entry}, length=0),
        "twice": safetensors("{" + one + "," + one + "}"),
        "twice_empty": safetensors("{" + empty + "," + one + "}"),
        "deep": safetensors('{"w":' + "[" * 10**5),
        "deep_objects": safetensors('{"w":' * 10**5),
        "metadata": safetensors({"__metadata__": {"a": [[]]}, "w": entry}),
        "no_object": safetensors("[" + one + "]"),
        "no_tensors": safetensors({"__metadata__": {"a": "b"}}, b""),
        "not_utf8": safetensors({"w": entry}).replace(b'"w"', b'"\xff"'),
        "terminal": safetensors({"\x1b[2J": entry}),
    }.items():
        yield Case(label, content, "damaged")
    yield Case("header_too_long", safetensors("{" + one + "}" + " " * 2**24), "header is too long")


def _others() -> Iterator[Case]:
    """What people download instead of a checkpoint."""
    for label, content in {
        "page": b"<!DOCTYPE html>\n<html><body>404: not found</body></html>\n",
        "lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 178090079\n",
        "text": b"weights\n",
        "json": b'{"error": "not found"}',
        "gzip": b"\x1f\x8b\x08" + bytes(100),
        "tar": b"a/data.pkl" + bytes(502),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "zeros": bytes(10**6),
        "npy": npy(),
    }.items():
        yield Case(label, content, "not match any known format|of type")
    yield Case("nothing", b"", "empty file")
