"""Pickles that want more than to be read, or claim more than they hold."""

import functools
import pickle as p
import struct
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
    raw,
    stack_name,
    start,
    table,
    tensor,
    text,
    tuple_of,
)

FORBIDDEN = (
    *("os.system", "posix.system", "nt.system", "subprocess.Popen", "shutil.rmtree", "socket.socket", "builtins.eval"),
    *("builtins.exec", "builtins.getattr", "builtins.__import__", "__builtin__.eval", "builtins.open", "pickle.loads"),
    *("importlib.import_module", "numpy.load", "torch.load", "torch.storage._load_from_bytes", "torch.hub.load"),
    *("copyreg._reconstructor", "operator.attrgetter", "functools.partial", "numpy.fromfile", "numpy.ndarray.tofile"),
    *("runpy._run_code", "torch.jit.load", "torch.serialization._open_file", "collections.OrderedDict.__init__"),
    *("torch._utils._rebuild_tensor_v2.__globals__.get", "numpy.core.multiarray.fromfile", "webbrowser.open"),
)
ORDERED, REBUILD, SCALAR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "numpy.core.multiarray.scalar"
DEEP = 24_000
# A pair of pairs of ... that has 2 ** 100 leaves: nothing may walk through it.
LAUGHS = p.EMPTY_LIST + (put(0) + get(0) + p.TUPLE2) * 100
NEST = p.EMPTY_LIST * DEEP + p.APPEND * (DEEP - 1)


@functools.cache
def all_pickles() -> tuple[Case, ...]:
    families = (_calls, _names, _persistent, _arguments, _arrays, _lengths, _nests, _damaged)
    return tuple(case._replace(name=f"{make.__name__}_{case.name}") for make in families for case in make())


def _calls() -> Iterator[Case]:
    system, command, end = name("os.system"), text(COMMAND), p.STOP
    yield Case("obj", p.MARK + system + command + p.OBJ + end, "refers to os.system")
    for opcode, content in {
        "INST": p.MARK + command + p.INST + b"os\nsystem\n",
        "OBJ": p.MARK + name(ORDERED) + p.OBJ,
        "NEWOBJ_EX": start(4) + name(ORDERED) + p.EMPTY_TUPLE + p.EMPTY_DICT + p.NEWOBJ_EX,
        "EXT1": start() + p.EXT1 + b"\x01",
        "EXT2": start() + p.EXT2 + b"\x01\x00",
        "EXT4": start() + p.EXT4 + b"\x01\x00\x00\x00",
        "NEXT_BUFFER": start(5) + p.NEXT_BUFFER,
        "READONLY_BUFFER": start(5) + p.EMPTY_LIST + p.READONLY_BUFFER,
        "PERSID": start() + p.PERSID + b"os.system\n",
        "FROZENSET": start(4) + p.MARK + p.FROZENSET,
    }.items():
        yield Case(f"opcode_{opcode}", content + end, f"opcode {opcode} is not allowed")
    for label, function in {
        "text": text("os.system"),
        "list": p.EMPTY_LIST,
        "none": p.NONE,
        "array": numpy_array(),
    }.items():
        yield Case(f"of_{label}", start() + call(function, command) + end, "calls something that is not a name")
    yield Case(
        "with_list", start() + name(ORDERED) + p.EMPTY_LIST + p.REDUCE + end, "calls something that is not a name"
    )
    yield Case("new_dict", start() + name(ORDERED) + p.EMPTY_TUPLE + p.NEWOBJ + end, "makes a .*, which is not allowed")
    yield Case("of_a_storage_type", start() + call(name("torch.FloatStorage"), command) + end, "which is not allowed")
    yield Case("of_an_inert_name", start() + call(name("numpy.ndarray"), command) + end, "which is not allowed")
    for label, target in {"list": p.EMPTY_LIST, "text": command, "set": p.EMPTY_SET, "name": name(ORDERED)}.items():
        state = p.EMPTY_DICT + text("__setstate__") + name(ORDERED) + p.SETITEM
        yield Case(f"build_on_{label}", start(4) + target + state + p.BUILD + end, "takes no state")


def _names() -> Iterator[Case]:
    for dotted in FORBIDDEN:
        yield Case(dotted, start() + call(name(dotted), text(COMMAND)) + p.STOP, "refers to .*, which is not allowed")
    for module, attribute in (
        ("os", "system"),
        ("", "os.system"),
        ("collections", "OrderedDict.__class__"),
        ("torch", ""),
    ):
        content = call(stack_name(text(module), text(attribute)), text(COMMAND))
        yield Case(f"stack_{module}_{attribute}", start(4) + content + p.STOP, "refers to .*, which is not allowed")
    for label, value in {"number": integer(1), "laughs": LAUGHS, "nest": NEST}.items():
        yield Case(f"stack_{label}", start(4) + stack_name(value, value) + p.STOP, "a name that is not a string")
    yield Case("mentioned", table(name("os.system")), "refers to os.system")
    yield Case("terminal", table(name("os\x1b[2J.\x07system")), "which is not allowed")
    yield Case("surrogate", start(4) + stack_name(text("\ud800"), text("a")) + p.STOP, "which is not allowed")
    yield Case("long", start(4) + stack_name(text("a" * 10**6), text("b\n" * 10**6)) + p.STOP, "refers to aaaa")
    yield Case("array_terminal", start() + p.EMPTY_DICT + text("\x1b[2J") + numpy_array() + b"s.", "not printable")


def _persistent() -> Iterator[Case]:
    yield Case("plain", start() + text("os.system") + p.BINPERSID + p.STOP, "persistent ids are not allowed")
    yield Case("storage", table(tensor()), "persistent ids are not allowed")


def _arguments() -> Iterator[Case]:
    def made(label: str, function: str, reason: str, *arguments: bytes) -> Case:
        return Case(label, table(call(name(function), *arguments), protocol=4), reason)

    for label, value in {
        "number": integer(5),
        "text": text("ab"),
        "names": p.MARK + text("a") + p.LIST,
        "array": numpy_array(),
    }.items():
        yield made(f"ordered_{label}", ORDERED, "OrderedDict is not in Python's format", value)
    nested_key = p.EMPTY_LIST + tuple_of(p.EMPTY_TUPLE, p.NONE) + p.APPEND
    yield made("ordered_tuple_as_key", ORDERED, "OrderedDict is not in Python's format", nested_key)
    yield made("set_of_lists", "builtins.set", "not plain values", p.EMPTY_LIST + p.EMPTY_LIST + p.APPEND)
    yield made("tensor_without_storage", REBUILD, "no storage", p.NONE, integer(0), p.EMPTY_TUPLE, p.EMPTY_TUPLE)
    yield made("tensor_of_too_little", REBUILD, "missing", p.NONE)
    yield made("parameter_of_text", "torch._utils._rebuild_parameter", "not a tensor", text("a"))
    yield made("codec", "_codecs.encode", "not in Python's format", text("a"), text("rot13"))
    yield made("codec_object", "_codecs.encode", "not in Python's format", text("a"), numpy_array())
    yield made("codec_of_bytes", "_codecs.encode", "not in Python's format", raw(b"a"), text("latin1"))
    yield made("codec_out_of_range", "_codecs.encode", "damaged pickle", text("\u20ac"), text("latin1"))
    yield made("scalar_of_object", SCALAR, "an invalid type", text("O8"), raw(bytes(8)))
    yield made("scalar_without_type", SCALAR, "an invalid type", p.NONE, p.NONE)
    yield made(
        "reconstruct_other",
        "numpy.core.multiarray._reconstruct",
        "another class",
        name("torch.Size"),
        integers(0),
        raw(b"b"),
    )
    for label, code in {
        "text": text("O"),
        "object": text("O8"),
        "fields": text("V8"),
        "list": text("f4,f4"),
        "date": text("M8"),
        "wide": text("f16"),
        "evaluated": text("01"),
        "evaluated_shape": text("0(f4"),
        "long": text("f4," * 10**5),
        "number": integer(1),
        "laughs": LAUGHS,
        "nest": NEST,
    }.items():
        yield made(f"dtype_{label}", "numpy.dtype", "does not contain plain numbers", code, integer(0), integer(1))
    yield made("dtype_name", "numpy.dtype", "does not contain plain numbers", name(ORDERED), integer(0), integer(1))


def _arrays() -> Iterator[Case]:
    for label, array, reason in (
        ("other_class", numpy_array(kind="torch.Size"), "another class"),
        ("object", numpy_array(code="O8"), "does not contain plain numbers"),
        ("fields", numpy_array(fields=p.EMPTY_DICT), "has fields"),
        ("order_laughs", numpy_array(order=LAUGHS), "byte order is unknown"),
        ("order_nest", numpy_array(order=NEST), "byte order is unknown"),
        ("order_array", numpy_array(order=numpy_array()), "byte order is unknown"),
        ("data_list", numpy_array(data=p.EMPTY_LIST), "holds objects"),
        ("data_short", numpy_array(data=raw(bytes(15))), "15 bytes instead of 16"),
        ("shape_huge", numpy_array(integers(2**62)), "bytes instead of"),
        ("shape_overflow", numpy_array(integers(2**32, 2**32, 0, 2**62)), "damaged pickle|bytes"),
        ("shape_wraps", numpy_array(integers(2**32, 2**31, 2, 2)), "bytes instead of"),
        ("shape_negative", numpy_array(integers(-4)), "an invalid shape"),
        ("shape_deep", numpy_array(integers(*[1] * 200)), "an invalid shape"),
        (
            "shape_of_long_numbers",
            numpy_array(tuple_of(*[integer(1 << 8 * 10**6) + put(9)] + [get(9)] * 30)),
            "an invalid shape",
        ),
        ("shape_text", numpy_array(text("ab")), "an invalid shape"),
        ("shape_bool", numpy_array(tuple_of(p.NEWTRUE)), "an invalid shape"),
    ):
        yield Case(label, table(array), reason)
    pending = call(name("numpy.core.multiarray._reconstruct"), name("numpy.ndarray"), integers(0), raw(b"b"))
    yield Case("without_content", table(pending), "has no content")
    yield Case("state_list", table(pending + p.EMPTY_LIST + p.BUILD), "an invalid state")
    shared = numpy_array(integers(2**16), raw(bytes(2**18)))
    yield Case("shared_by_thousands", table(shared + put(9), *[get(9)] * 5000), "larger than the file")


def _lengths() -> Iterator[Case]:
    for label, opcode in {"unicode8": p.BINUNICODE8, "bytes8": p.BINBYTES8, "bytearray8": p.BYTEARRAY8}.items():
        for count in (2**62, 2**64 - 1, 2**40):
            yield Case(f"{label}_{count}", start(5) + opcode + struct.pack("<Q", count) + b"abc", "damaged pickle")
    for label, opcode in {"unicode": p.BINUNICODE, "bytes": p.BINBYTES, "string": p.BINSTRING, "long": p.LONG4}.items():
        yield Case(label, start(5) + opcode + struct.pack("<I", 2**31 - 1) + b"abc", "damaged pickle")
    yield Case("negative_string", start() + p.BINSTRING + struct.pack("<i", -5) + b"abc", "damaged pickle")
    yield Case("negative_long", start() + p.LONG4 + struct.pack("<i", -5) + b"abc", "damaged pickle")
    yield Case("frame", start(4) + p.FRAME + struct.pack("<Q", 2**62), "no STOP|damaged pickle|exhausted")
    yield Case("decimal_long", p.MARK + p.LONG + b"9" * 10**6 + b"L\n.", "damaged pickle")
    yield Case("decimal_int", p.MARK + p.INT + b"9" * 10**6 + b"\n.", "damaged pickle")
    for index in (2**31, 2**32 - 1, 200_001):
        yield Case(f"memo_{index}", start() + p.NONE + put(index) + p.STOP, "memo of this size")
    for index in (b"99999999999999999999", b"-1"):
        yield Case(f"memo_{index.decode()}", p.EMPTY_DICT + p.PUT + index + b"\n.", "memo of this size")
    colliding = b"".join(p.PUT + str(index * (2**61 - 1)).encode() + b"\n" for index in range(1, 20_000))
    yield Case("memo_collisions", p.EMPTY_DICT + colliding + p.STOP, "memo of this size")
    yield Case("opcodes", start() + (p.NONE + p.POP) * 2_500_000 + p.STOP, "more than .* opcodes")
    yield Case("marks", start() + p.MARK * 5_000_000 + p.STOP, "more than .* opcodes")


def _nests() -> Iterator[Case]:
    million = 1_000_000
    yield Case("million_lists", start() + p.EMPTY_LIST * million + p.APPEND * (million - 1) + p.STOP, "opcodes")
    yield Case("million_tuples", start() + p.EMPTY_TUPLE + p.TUPLE1 * million + p.STOP, "opcodes")
    yield Case("lists", start() + NEST + p.STOP, "of type list")
    yield Case("tuples", start() + p.EMPTY_TUPLE + p.TUPLE1 * DEEP + p.STOP, "of type tuple")
    yield Case("laughs", start() + LAUGHS + p.STOP, "of type tuple")
    yield Case(
        "tuples_as_key", start() + p.EMPTY_DICT + LAUGHS + p.NONE + p.SETITEM + p.STOP, "key of type .* is not allowed"
    )
    yield Case("tuples_in_set", start(4) + p.EMPTY_SET + p.MARK + LAUGHS + p.ADDITEMS + p.STOP, "set of containers")
    huge = integer(1 << 8 * 2**20) + put(0) + b"".join([get(0) + p.NONE] * 10_000)
    yield Case("huge_keys", start() + p.MARK + p.NONE + huge + p.DICT + p.STOP, "key of type .* is not allowed")
    numbers = b"".join(integer(index * (2**61 - 1)) + p.NONE for index in range(40_000))
    yield Case("colliding_keys", start() + p.MARK + numbers + p.DICT + p.STOP, "key of type .* is not allowed")
    yield Case("cycle", start() + p.EMPTY_LIST + put(0) + get(0) + p.APPEND + p.STOP, "of type list")
    yield Case("cyclic_table", start() + p.EMPTY_DICT + put(0) + text("model") + get(0) + b"s.", "no named arrays")
    items = p.EMPTY_LIST + p.MARK + b"".join(integer(index) for index in range(50_000)) + p.APPENDS + p.TUPLE1 + put(0)
    sets = (name("builtins.set") + get(0) + p.REDUCE) * 10_000
    yield Case("repeated_set", start() + items + p.MARK + sets + p.LIST + p.STOP, "repeats values too often")
    encoded = (call(name("_codecs.encode"), get(0), text("latin1")) + put(1)) * 10_000
    yield Case(
        "repeated_text", start() + text("a" * 10**6) + put(0) + p.MARK + encoded + p.LIST + p.STOP, "repeats values"
    )
    old = (b"".join([get(1), tuple_of(integer(1), integers(10**6), get(2), p.NEWFALSE, get(0)), p.BUILD])) * 5_000
    dtype = call(name("numpy.dtype"), text("i1"), integer(0), integer(1)) + put(2)
    target = call(name("numpy.core.multiarray._reconstruct"), name("numpy.ndarray"), integers(0), raw(b"b")) + put(1)
    content = text("a" * 10**6) + put(0) + dtype + target + p.MARK + old + p.LIST
    yield Case("repeated_state", start() + content + p.STOP, "repeats values too often")
    floods = {
        "arrays": target + p.POP + dtype + p.POP + raw(b"") + put(0) + integers(0) + put(3) + p.MARK
        + (get(1) + tuple_of(integer(1), get(3), get(2), p.NEWFALSE, get(0)) + p.BUILD) * 7_000 + p.LIST,
        "types": name("numpy.dtype") + put(0) + tuple_of(text("f4")) + put(1) + p.MARK
        + (get(0) + get(1) + p.REDUCE) * 32_000 + p.LIST,
        "dicts": p.EMPTY_DICT + p.POP + p.MARK + p.EMPTY_DICT * 98_000 + p.LIST,
    }  # fmt: skip
    for label, flood in floods.items():
        yield Case(f"flood_of_{label}", start(4) + flood + p.STOP, "of type list")


def _damaged() -> Iterator[Case]:
    for label, content, reason in (
        ("no_end", start() + p.EMPTY_DICT, "damaged pickle|no STOP"),
        ("protocol_9", p.PROTO + b"\x09" + p.EMPTY_DICT + p.STOP, "protocol 9 is unknown"),
        ("unknown_opcode", start() + b"\xff.", "damaged pickle"),
        ("underflow", start() + p.APPEND + p.STOP, "stack is empty"),
        ("no_mark", start() + p.NONE + p.TUPLE + p.STOP, "a mark is missing"),
        ("mark_as_value", start() + p.MARK + p.STOP, "stack is empty"),
        ("dup_of_nothing", start() + p.DUP + p.STOP, "damaged pickle"),
        ("put_of_nothing", start() + put(0) + p.STOP, "damaged pickle"),
        ("get_unknown", start() + get(7) + p.STOP, "damaged pickle"),
        ("key_without_value", start() + p.MARK + p.NONE + p.DICT + p.STOP, "a key has no value"),
        ("append_to_text", start() + text("a") + p.NONE + p.APPEND + p.STOP, "expected a list"),
        ("item_of_text", start() + text("a") + p.NONE + p.NONE + p.SETITEM + p.STOP, "expected a dict"),
        ("escapes", start() + p.STRING + b"'\\x'\n.", "damaged pickle"),
        ("no_arrays", start() + p.EMPTY_DICT + text("epoch") + integer(5) + p.SETITEM + p.STOP, "no named arrays"),
        ("number", start() + integer(5) + p.STOP, "of type int"),
        ("empty", start() + p.EMPTY_DICT + p.STOP, "no named arrays"),
    ):
        yield Case(label, content, reason)
