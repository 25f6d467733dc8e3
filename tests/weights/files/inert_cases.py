"""Pickles that misuse the objects which training checkpoints may have beside the weights."""

import pickle as p
from collections.abc import Iterator

from tests.weights.files.craft import (
    COMMAND,
    Case,
    call,
    get,
    integer,
    name,
    put,
    start,
    table,
    tensor,
    text,
    torch_zip,
)

SPACE, COUNTER, FACTORY = "argparse.Namespace", "collections.Counter", "collections.defaultdict"
REBUILD, TYPED = "torch._utils._rebuild_tensor_v2", "torch._tensor._rebuild_from_type_v2"
SYSTEM = name("os.system")
NOT_ALLOWED = "which is not allowed"
REFERS = f"refers to os.system, {NOT_ALLOWED}"


def new(kind: str, state: bytes = b"") -> bytes:
    """An object as pickles of protocol 2 and later make it: NEWOBJ and, with a state, BUILD."""
    return name(kind) + p.EMPTY_TUPLE + p.NEWOBJ + (state + p.BUILD if state else b"")


def fields(**values: bytes) -> bytes:
    """A dict with text keys."""
    return p.EMPTY_DICT + p.MARK + b"".join(text(key) + value for key, value in values.items()) + p.SETITEMS


def inert_cases() -> Iterator[Case]:
    """Every case is refused."""
    end = p.STOP
    command = text(COMMAND)
    yield Case("inst", p.MARK + command + p.INST + b"argparse\nNamespace\n" + end, "opcode INST is not allowed")
    yield Case("obj", p.MARK + name(SPACE) + command + p.OBJ + end, "opcode OBJ is not allowed")
    yield Case("new_ex", start(4) + name(SPACE) + p.EMPTY_TUPLE + p.EMPTY_DICT + p.NEWOBJ_EX + end, "opcode NEWOBJ_EX")
    yield Case("new_popen", table(new("subprocess.Popen")), f"refers to subprocess.Popen, {NOT_ALLOWED}")
    yield Case("new_function", table(new(REBUILD)), f"makes a torch._utils._rebuild_tensor_v2, {NOT_ALLOWED}")
    yield Case("new_array_type", table(new("numpy.ndarray")), f"makes a numpy.ndarray, {NOT_ALLOWED}")
    yield Case("new_text", table(text(SPACE) + p.EMPTY_TUPLE + p.NEWOBJ), "makes something that is not a name")
    yield Case("new_with_list", table(name(SPACE) + p.EMPTY_LIST + p.NEWOBJ), "makes something that is not a name")
    yield Case("subclass", table(new("argparse.ArgumentParser")), f"refers to argparse.ArgumentParser, {NOT_ALLOWED}")
    yield Case("attribute", table(name("argparse.Namespace.__init__.__globals__")), NOT_ALLOWED)
    yield Case("state_runs", table(new(SPACE, fields(__setstate__=SYSTEM))), REFERS)
    yield Case("call_of_a_space", table(call(new(SPACE), command)), "calls something that is not a name")
    yield Case("counter_of_call", table(call(name(COUNTER), call(SYSTEM, command))), REFERS)
    yield Case("counter_of_text", table(call(name(COUNTER), command)), "a Counter is not in Python's format")
    yield Case("factory_runs", table(call(name(FACTORY), SYSTEM)), REFERS)
    yield Case("factory_text", table(call(name(FACTORY), command)), "a defaultdict is not in Python's format")
    yield Case("deque_of_text", table(call(name("collections.deque"), integer(5))), "a deque is not in Python's format")
    yield Case("path_of_number", table(call(name("pathlib.PosixPath"), integer(1))), "a path is not in Python's format")
    yield Case("getattr", table(call(name("builtins.getattr"), name(SPACE), text("__class__"))), NOT_ALLOWED)
    yield Case("partial", table(call(name("functools.partial"), SYSTEM)), NOT_ALLOWED)
    key = p.EMPTY_DICT + new(SPACE) + p.NONE + p.SETITEM
    yield Case("as_key", table(key), "a key of type Inert is not allowed")
    whole = start() + new(SPACE, fields(model=p.EMPTY_DICT)) + end
    yield Case("as_whole", whole, "a value of type Namespace instead of")
    yield Case("as_dict", table(new(SPACE) + text("w") + p.NONE + p.SETITEM), "expected a dict")
    yield Case("as_storage", torch_zip(table(tensor(of=new(SPACE)))), "no storage")
    typed = call(name(TYPED), name("builtins.set"), name("torch.Tensor"), p.EMPTY_TUPLE, p.NONE)
    yield Case("typed_by_set", table(typed), "a tensor is not in torch's format")
    typed = call(name(TYPED), name(REBUILD), name(SPACE), p.EMPTY_TUPLE, p.NONE)
    yield Case("typed_as_space", table(typed), "a tensor is not in torch's format")
    yield Case("whole_model", table(new("torchvision.models.detection.mask_rcnn.MaskRCNN")), NOT_ALLOWED)
    million = text("a" * 10**6) + put(0) + p.POP
    paths = (name("pathlib.PosixPath") + get(0) + p.TUPLE1 + p.REDUCE) * 10_000
    yield Case("paths_flood", start() + million + p.MARK + paths + p.LIST + end, "repeats values too often")
    yield Case("flood", start() + p.MARK + new(SPACE) * 33_000 + p.LIST + end, "of type list|more than .* opcodes")
    cycle = new(SPACE) + put(0) + p.EMPTY_DICT + text("self") + get(0) + p.SETITEM + p.BUILD
    yield Case("cycle", start() + p.EMPTY_DICT + text("args") + cycle + p.SETITEM + end, "it has no named arrays")
