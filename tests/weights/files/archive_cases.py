"""Archives and torch files whose sizes, names, tensors and storages are lies."""

import functools
import pickle as p
import struct
import zipfile
from collections.abc import Iterator

from tests.weights.files.craft import (
    COMMAND,
    Case,
    call,
    get,
    integer,
    integers,
    name,
    numpy_array,
    put,
    storage,
    table,
    tensor,
    text,
    torch_legacy,
    torch_zip,
    tuple_of,
    zipped,
)

GOOD = table(tensor())
REBUILD = "torch._utils._rebuild_tensor_v2"


@functools.cache
def all_archives() -> tuple[Case, ...]:
    families = (_tensors, _storages, _zips, _directories, _legacy)
    return tuple(case._replace(name=f"{make.__name__}_{case.name}") for make in families for case in make())


def _tensors() -> Iterator[Case]:
    for label, of, reason in (
        ("size_negative", tensor((-2, 2)), "an invalid shape"),
        ("size_beyond", tensor((3, 2)), "extends beyond it"),
        ("size_huge", tensor((2**62,), (1,)), "extends beyond it"),
        ("size_wraps", tensor((2**32, 2**32), (0, 0)), "extends beyond it"),
        ("size_too_long", tensor((2**64, 0), (0, 0)), "an invalid shape"),
        ("size_empty_but_huge", tensor((0, 2**62, 2**62), (0, 0, 0)), "dimension|too big|too large"),
        ("size_million_digits", tensor((1 << 8 * 10**6,) * 2, (0, 0)), "an invalid shape"),
        ("expansion", tensor((10**9,), (0,)), "extends beyond it"),
        ("expansion_small", tensor((5,), (0,)), "extends beyond it"),
        ("stride_negative", tensor((2,), (-1,), 3), "invalid strides"),
        ("stride_beyond", tensor((2,), (2**40,)), "extends beyond it"),
        ("stride_wraps", tensor((2,), (2**62,)), "extends beyond it"),
        ("stride_of_side_1", tensor((1, 3), (2**62, 2)), "extends beyond it"),
        ("stride_missing", tensor((2, 2), (1,)), "invalid strides"),
        ("offset_negative", tensor((2,), (1,), -1), "an invalid offset"),
        ("offset_beyond", tensor((1,), (1,), 4), "extends beyond it"),
        ("offset_wraps", tensor((1,), (1,), 2**63 - 1), "extends beyond it"),
        ("offset_huge", tensor((1,), (1,), 2**64), "an invalid offset"),
        ("many_dimensions", tensor((1,) * 200, (1,) * 200), "an invalid shape"),
        ("of_an_array", tensor(of=numpy_array()), "no storage"),
        ("of_text", tensor(of=text("0")), "no storage"),
    ):
        yield Case(label, torch_zip(table(of)), reason)
    for label, bad in {"laughs": p.EMPTY_LIST + (put(0) + get(0) + p.TUPLE2) * 100, "text": text("1")}.items():
        for place in range(3):
            parts = [
                bad if place == index else good for index, good in enumerate((integer(0), integers(4), integers(1)))
            ]
            content = table(call(name(REBUILD), storage(), *parts, p.NEWFALSE))
            yield Case(f"{label}_{place}", torch_zip(content), "invalid")
    many = [tensor((2**18,), (1,), numel=2**18)] * 3000
    yield Case("thousands_of_one_storage", torch_zip(table(*many), bytes(2**20)), "larger than the file")
    turned = [tensor((2**9, 2**9), (1, 2**9), numel=2**18)] * 3000
    yield Case("thousands_of_copies", torch_zip(table(*turned), bytes(2**20)), "larger than the file")
    arguments = tuple_of(storage(), integer(0), integers(*[1] * 32), integers(*[1] * 32))
    flood = name(REBUILD) + put(0) + arguments + put(1) + p.MARK + (get(0) + get(1) + p.REDUCE) * 32_000 + p.LIST
    yield Case("flood_of_views", torch_zip(p.PROTO + b"\x02" + flood + p.STOP), "repeats values too often|of type list")
    long = integers(*[1] * 50_000) + put(1)
    views = [call(name(REBUILD), get(0), integer(0), get(2), get(1), p.NEWFALSE)] * 10_000
    start = storage() + put(0) + p.POP + long + p.POP + integers() + put(2) + p.POP
    yield Case("thousands_of_long_strides", torch_zip(table(start + views[0], *views[1:])), "invalid strides")


def _storages() -> Iterator[Case]:
    for label, numel, reason in (
        ("larger", 5, "16 bytes instead of 20"),
        ("smaller", 3, "16 bytes instead of 12"),
        ("huge", 2**62, "bytes instead of"),
        ("too_huge", 2**63, "not described in torch's format"),
        ("negative", -4, "not described in torch's format"),
    ):
        yield Case(f"numel_{label}", torch_zip(table(tensor((1,), (1,), numel=numel))), reason)
    for label, of, reason in (
        ("numel_text", storage(text("4")), "not described"),
        ("numel_bool", storage(p.NEWTRUE), "not described"),
        ("unknown_type", storage(kind="torch.QInt8Storage"), "refers to torch.QInt8Storage"),
        ("no_storage_type", storage(kind="torch.Size"), "not described"),
        ("other_module", storage(kind="evil.FloatStorage"), "refers to evil.FloatStorage"),
        ("missing", storage(key=text("7")), "storage 7 is missing"),
        ("outside", storage(key=text("../../../etc/passwd")), "is missing"),
        ("key_number", storage(key=integer(0)), "not described"),
        ("key_laughs", storage(key=p.EMPTY_LIST + (put(0) + get(0) + p.TUPLE2) * 100), "not described"),
        ("key_long", storage(key=text("0" * 10**6)), "not described"),
        ("other_width", storage(kind="torch.DoubleStorage"), "16 bytes instead of 32"),
        ("two_types", storage() + p.POP + storage(kind="torch.IntStorage"), "described in two ways"),
        ("two_sizes", storage() + p.POP + storage(integer(2)), "described in two ways"),
        ("id_text", text("os.system") + p.BINPERSID, "does not describe a storage"),
        ("id_number", integer(5) + p.BINPERSID, "does not describe a storage"),
        ("id_array", numpy_array() + p.BINPERSID, "does not describe a storage"),
        ("id_short", tuple_of(text("storage")) + p.BINPERSID, "does not describe a storage"),
        ("id_module", tuple_of(text("module"), *[p.NONE] * 4) + p.BINPERSID, "does not describe a storage"),
        ("id_arrays", tuple_of(*[numpy_array()] * 5) + p.BINPERSID, "does not describe a storage"),
        (
            "id_view",
            tuple_of(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), integer(4), integers(1))
            + p.BINPERSID,
            "a view of another",
        ),
    ):
        yield Case(label, torch_zip(table(tensor(of=of))), reason)


def _zips() -> Iterator[Case]:
    good, entries = torch_zip(GOOD), {"a/data.pkl": GOOD, "a/data/0": bytes(16)}
    yield Case("code", torch_zip(table(call(name("os.system"), text(COMMAND)))), "refers to os.system")
    yield Case("code_of_jit", torch_zip(table(name("__torch__.Model"))), "refers to __torch__.Model")
    yield Case("missing_storage", zipped({"a/data.pkl": GOOD}), "storage 0 is missing")
    yield Case("big_endian", torch_zip(GOOD, byteorder=b"big"), "byte order is not little-endian")
    yield Case("two_structures", zipped(entries | {"b/data.pkl": GOOD}), "several data.pkl files")
    yield Case("structure_too_large", torch_zip(bytes(65 * 2**20)), "data.pkl is too large")
    yield Case("compressed", zipped(entries, zipfile.ZIP_DEFLATED), "are compressed")
    yield Case("lzma", zipped(entries, zipfile.ZIP_LZMA), "compression is not supported")
    yield Case("bomb", zipped(entries | {"a/data/0": bytes(10**8)}, zipfile.ZIP_DEFLATED), "unpacks to")
    yield Case("traversal", zipped({"../../PWNED": b"x", "/PWNED": b"x", "a/data.pkl": GOOD}), "storage 0 is missing")
    yield Case("checksum", good.replace(bytes(16), b"\x01" + bytes(15), 1), "CRC")
    yield Case("checksum_of_structure", good.replace(b"\x89c", b"\x88c", 1), "CRC")
    for part in (4, 40, len(good) // 2, len(good) - 100, len(good) - 22, len(good) - 1):
        yield Case(f"truncated_{part}", good[:part], "not a zip|central directory|cannot mmap|zip file")
    twice = zipped([("a/data.pkl", GOOD), ("a/data/0", bytes(16)), ("b/data/0", bytes(16))])
    yield Case("duplicate", twice.replace(b"b/data/0", b"a/data/0"), "two entries with the same name")
    yield Case("many_entries", zipped([(str(index), b"") for index in range(21_000)]), "entries is not plausible")


def _directories() -> Iterator[Case]:
    """The table of contents, against the entries themselves. The last record is the storage's."""
    good = torch_zip(GOOD)
    record, local = good.rindex(b"PK\x01\x02"), good.rindex(b"PK\x03\x04")

    def patched(at: int, *values: int, form: str = "I") -> bytes:
        new = struct.pack(f"<{len(values)}{form}", *values)
        return good[:at] + new + good[at + len(new) :]

    for label, content, reason in (
        ("sizes", patched(record + 20, 10**9, 10**9), "unpacks to"),
        ("sizes_little", patched(record + 20, 20, 20), "20 bytes instead of 16"),
        ("sizes_smaller", patched(record + 20, 8, 8), "8 bytes instead of 16"),
        ("size_packed", patched(record + 20, 8), "are compressed"),
        ("beyond_end", patched(record + 20, 10**6, 10**6), "bytes instead of"),
        ("offset", patched(record + 42, 2**31), "a/data/0"),
        ("offset_at_end", patched(record + 42, len(good) - 8), "a/data/0"),
        ("offset_overlaps", patched(record + 42, 0), "overlap|differ"),
        ("offset_inside", patched(record + 42, 20), "overlap"),
        ("encrypted", patched(record + 8, 1, form="H"), "encrypted"),
        ("patched_data", patched(record + 8, 0x20, form="H"), "patched"),
        ("strong_encryption", patched(record + 8, 0x40, form="H"), "encryption"),
        ("method", patched(record + 10, 99, form="H"), "compression is not supported"),
        ("version", patched(record + 6, 255, form="H"), "version"),
        ("name_inside", patched(local + 30, 0, form="Q"), "differ"),
        ("directory_offset", patched(len(good) - 6, 2**32 - 2), "damaged"),
        ("directory_size", patched(len(good) - 10, 2**32 - 2), "damaged"),
    ):
        yield Case(label, content, reason)
    wide = struct.pack("<HHQQ", 1, 16, 2**62, 2**62)
    longer = good[: record + 46 + 8] + wide + good[record + 46 + 8 :]
    sizes = struct.pack("<II", 2**32 - 1, 2**32 - 1)
    longer = (
        longer[: record + 20]
        + sizes
        + longer[record + 28 : record + 30]
        + struct.pack("<H", 20)
        + longer[record + 32 :]
    )
    end = longer.rindex(b"PK\x05\x06")
    total = struct.unpack_from("<I", longer, end + 12)[0] + 20
    yield Case("zip64", longer[: end + 12] + struct.pack("<I", total) + longer[end + 16 :], "unpacks to")
    record64 = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2, 2, 2**62, 2**62)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, good.rindex(b"PK\x05\x06"), 1)
    tail = good.rindex(b"PK\x05\x06")
    yield Case("zip64_directory", good[:tail] + record64 + locator + good[tail:], "damaged")


def _legacy() -> Iterator[Case]:
    good, keys = torch_legacy(GOOD), p.EMPTY_LIST + p.MARK + text("0") + text("0") + p.APPENDS
    for label, content, reason in (
        ("code", torch_legacy(table(call(name("os.system"), text(COMMAND)))), "refers to os.system"),
        ("code_in_keys", torch_legacy(GOOD, name("os.system")), "refers to os.system"),
        ("code_in_system", torch_legacy(GOOD, system=name("os.system")), "refers to os.system"),
        ("version", torch_legacy(GOOD, version=integer(1002)), "protocol version is unknown"),
        ("version_array", torch_legacy(GOOD, version=numpy_array(integers(0), p.EMPTY_TUPLE)), "holds objects"),
        ("version_no_number", torch_legacy(GOOD, version=numpy_array()), "protocol version is unknown"),
        ("big_endian", torch_legacy(GOOD, system=p.EMPTY_DICT), "byte order is not little-endian"),
        ("system_list", torch_legacy(GOOD, system=p.EMPTY_LIST), "byte order is not little-endian"),
        ("head_larger", torch_legacy(GOOD, head=struct.pack("<q", 5)), "does not have the declared size"),
        ("head_negative", torch_legacy(GOOD, head=struct.pack("<q", -4)), "does not have the declared size"),
        ("head_huge", torch_legacy(GOOD, head=struct.pack("<q", 2**62)), "does not have the declared size"),
        (
            "head_short",
            torch_legacy(table(tensor((0,), (1,), numel=0)), head=b"", data=b""),
            "does not have the declared size",
        ),
        ("numel_huge", torch_legacy(table(tensor(numel=2**62))), "larger than the file"),
        ("numel_larger", torch_legacy(table(tensor(numel=5)), head=struct.pack("<q", 5)), "16 bytes instead of 20"),
        ("data_short", torch_legacy(GOOD, data=bytes(15)), "15 bytes instead of 16"),
        ("keys_unknown", torch_legacy(GOOD, p.EMPTY_LIST + text("1") + p.APPEND), "belongs to no tensor"),
        ("keys_twice", torch_legacy(GOOD, keys, data=bytes(100)), "listed twice"),
        ("keys_missing", torch_legacy(GOOD, p.EMPTY_LIST), "is not in the file"),
        ("keys_text", torch_legacy(GOOD, text("0")), "list of storages is damaged"),
        ("keys_numbers", torch_legacy(GOOD, p.EMPTY_LIST + integer(0) + p.APPEND), "list of storages is damaged"),
        ("keys_bomb", torch_legacy(GOOD, p.NONE + put(2**31)), "memo of this size"),
        ("stride", torch_legacy(table(tensor((2,), (9,)))), "extends beyond it"),
    ):
        yield Case(label, content, reason)
    flood = (p.NONE + p.POP) * 49_000
    yield Case("floods", torch_legacy(flood.join([GOOD[:2], GOOD[2:]]), flood + p.NONE), "list of storages is damaged")
    yield Case("flood_in_version", torch_legacy(GOOD, version=flood + integer(1001)), "more than 100 opcodes")
    yield Case("flood_in_system", torch_legacy(GOOD, system=flood + p.EMPTY_DICT), "more than 100 opcodes")
    for part in range(15, len(good), 13):
        yield Case(f"truncated_{part}", good[:part], "damaged")
