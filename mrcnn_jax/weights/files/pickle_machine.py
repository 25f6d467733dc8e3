"""Reader of pickles that never unpickles: a small stack machine with an allow-list of opcodes and names.

A name in a pickle is never imported. It is looked up in a table of our own functions, which build arrays, tensors,
containers and, for other objects of training checkpoints, empty shells (`inert`). Names outside the table, and opcodes
that could call anything else, are refused. Reading a file therefore cannot execute its code. `pickletools.genops`,
which only splits the bytes, reads the opcodes.
"""

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrcnn_jax.weights.files.cursor import Cursor
from mrcnn_jax.weights.files.inert import DICTS, SHELLS, Inert
from mrcnn_jax.weights.files.reductions import REDUCTIONS, STORAGE_NAMES, Buildable, Global
from mrcnn_jax.weights.files.tensors import FileError, is_key, require

MAX_OPCODES = 100_000
"""Real checkpoints have about 20,000, or 60,000 with an optimizer. The limit stops hostile ones within a second."""
MAX_REPEATED = 2**16
"""Items and bytes that functions may get beyond twice the bytes read: a memoised list can be passed many times."""

Persistent = Callable[[Any], Any]

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass
class Machine:
    """State of the machine while one pickle is read."""

    persistent: Persistent | None
    """Resolves a persistent id; None if the format has no persistent ids."""
    max_opcodes: int = MAX_OPCODES

    def __post_init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.position = 0
        self.handed_over = 0

    def run(self, file: Cursor) -> Any:
        """Returns the value of the pickle at the file's position. Raises FileError for anything that is not allowed."""
        try:
            opcodes = pickletools.genops(file)  # type: ignore[arg-type]  # needs only read, readline and tell
            for count, (opcode, argument, start) in enumerate(opcodes):
                self.position = start or 0
                require(count < self.max_opcodes, f"more than {self.max_opcodes} opcodes")
                if opcode.name == "STOP":
                    return self.pop()
                self.step(opcode.name, argument)
        except FileError as error:
            raise FileError(f"{error} (byte {self.position} of the pickle)") from error
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, UnicodeError) as error:
            raise FileError(f"damaged pickle after byte {self.position}: {error}") from error
        raise FileError("the pickle has no STOP opcode")

    def step(self, name: str, argument: Any) -> None:
        """Executes one opcode."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(reversed([self.pop() for _ in range(_TUPLES[name])])))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise FileError(f"opcode {name} is not allowed")

    def pop(self) -> Any:
        """Removes and returns the top of the stack, which must not be a mark."""
        require(bool(self.stack) and self.stack[-1] is not _MARK, "damaged pickle: the stack is empty")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Removes the last mark and everything above it, which is returned."""
        items = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        require(bool(self.stack), "damaged pickle: a mark is missing")
        self.stack.pop()
        return items[::-1]

    def top(self, kind: type) -> Any:
        """Returns the top of the stack, which must be of this type."""
        require(bool(self.stack) and type(self.stack[-1]) is kind, f"damaged pickle: expected a {kind.__name__}")
        return self.stack[-1]

    def put_items(self, flat: list[Any]) -> None:
        """Adds key, value, key, value, ... to the dict on top."""
        target = self.top(dict)
        require(len(flat) % 2 == 0, "damaged pickle: a key has no value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            require(is_key(key), f"a key of type {type(key).__name__} is not allowed")
            target[key] = value

    def find_global(self, module: Any, name: Any) -> None:
        """Pushes an allowed name, which is not imported."""
        require(isinstance(module, str) and isinstance(name, str), "it refers to a name that is not a string")
        found = Global(module, name)
        is_storage = found.module == "torch" and found.name in STORAGE_NAMES
        allowed = found in REDUCTIONS or is_storage or found.is_inert or found in SHELLS or found in DICTS
        require(allowed, f"it refers to {found.module}.{found.name}, which is not allowed")
        self.stack.append(found)

    def hand_over(self, values: tuple[Any, ...]) -> None:
        """Counts the items and bytes that are passed to one of our functions."""
        self.handed_over += sum(len(value) for value in values if isinstance(value, (str, bytes, list, tuple)))
        require(self.handed_over <= 2 * self.position + MAX_REPEATED, "it repeats values too often")

    def put(self, index: int) -> None:
        """Stores the top of the stack in the memo."""
        require(0 <= index <= MAX_OPCODES, "a memo of this size is not plausible")
        self.memo[index] = self.stack[-1]

    def reduce(self) -> None:
        """Calls our function in place of the one that the pickle names."""
        arguments, function = self.pop(), self.pop()
        require(isinstance(function, Global) and isinstance(arguments, tuple), "it calls something that is not a name")
        if function in SHELLS:
            self.stack.append(Inert(function.name))
            return
        require(function in REDUCTIONS, f"it calls {function.module}.{function.name}, which is not allowed")
        self.hand_over(arguments)
        self.stack.append(REDUCTIONS[function](*arguments))

    def new(self) -> None:
        """Pushes an empty shell or dict in place of an object of the class that the pickle names."""
        arguments, kind = self.pop(), self.pop()
        require(isinstance(kind, Global) and isinstance(arguments, tuple), "it makes something that is not a name")
        require(kind in SHELLS or kind in DICTS, f"it makes a {kind.module}.{kind.name}, which is not allowed")
        self.stack.append(Inert(kind.name) if kind in SHELLS else {})

    def build(self) -> None:
        """Sets the state of the object on top, if it is one of ours that has a state."""
        state, target = self.pop(), self.pop()
        if isinstance(target, (Buildable, Inert)):
            self.hand_over(state if isinstance(state, tuple) else ())
            target.build(state)
        else:  # an OrderedDict's attributes, such as torch's _metadata, are not needed
            require(type(target) is dict, f"a {type(target).__name__} takes no state")
        self.stack.append(target)

    def load_persistent(self) -> None:
        """Pushes the object to which a persistent id refers."""
        require(self.persistent is not None, "persistent ids are not allowed in this format")
        assert self.persistent is not None
        self.stack.append(self.persistent(self.pop()))


def _append(machine: Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)


def _add_items(machine: Machine, items: list[Any]) -> None:
    require(all(map(is_key, items)), "a set of containers is not allowed")
    machine.top(set).update(items)


_STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    "PROTO": lambda machine, version: require(version <= 5, f"pickle protocol {version} is unknown"),
    "FRAME": lambda machine, length: None,
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: _add_items(machine, machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.put_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.put_items(machine.pop_to_mark()),
    "GET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "PUT": lambda machine, index: machine.put(index),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GLOBAL": lambda machine, names: machine.find_global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find_global(*[machine.pop(), machine.pop()][::-1]),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.new(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.load_persistent(),
}


def _build_dict(machine: Machine, _: Any) -> None:
    flat = machine.pop_to_mark()
    machine.stack.append({})
    machine.put_items(flat)


_STEPS["DICT"] = _build_dict
for _alias, _name in (("BINGET", "GET"), ("LONG_BINGET", "GET"), ("BINPUT", "PUT"), ("LONG_BINPUT", "PUT")):
    _STEPS[_alias] = _STEPS[_name]


def read_pickle(file: Cursor, persistent: Persistent | None = None, max_opcodes: int = MAX_OPCODES) -> Any:
    """Returns the value of the pickle at the file's position: plain containers, arrays, and tensors over storages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in Python 2's strings
        return Machine(persistent, max_opcodes).run(file)
