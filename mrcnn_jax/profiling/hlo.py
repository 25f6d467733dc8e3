"""Reads optimised HLO: how often each instruction runs, the loops, and the data that devices exchange.

JAX returns the text with `compiled.as_text()`.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

COLLECTIVES = {
    "all-reduce",
    "all-gather",
    "all-to-all",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
}
CALLERS = {"while", "call", "conditional", "fusion", "async-start"}
"""Instructions that run the computations they name. Those that others name, such as a reduction's sum, are scalar."""

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.-]+) = (.*)$")
_LAYOUT = re.compile(r"\{[^{}]*\}|/\*.*?\*/")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|\w+_computations?)=\{?((?:%[\w.-]+(?:, )?)+)")
_NAME = re.compile(r"%([\w.-]+)")
_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,<=]*)\]")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shape: str
    """Type of the result without layouts, such as `(f32[8,4], bf16[3])`."""
    operands: tuple[str, ...]
    """Names of the operands; for a constant, its value."""
    attributes: str
    """Text after the operands."""
    is_root: bool

    @property
    def op_name(self) -> str:
        """Origin, such as `jit(step)/jvp(propose)/gather`; empty if the compiler created the instruction."""
        return _first(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)

    @property
    def cycles(self) -> int | None:
        """Cycles of one run by the TPU compiler's own estimate; None if there is none."""
        estimate = _first(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(estimate) if estimate else None

    @property
    def called(self) -> list[str]:
        """Names of the computations that the instruction runs."""
        roles = _CALLED.findall(self.attributes) if self.opcode in CALLERS else []
        return [name for _, names in roles for name in _NAME.findall(names)]


@dataclass(frozen=True)
class ExecutedInstruction:
    """An instruction as the program runs it."""

    instruction: Instruction
    times: int
    """Number of runs: the product of the trip counts of all loops around the instruction."""
    op_name: str
    """The instruction's own, else that of its first user, of an operand, or of the caller."""
    is_fused: bool
    """Whether it is part of a fusion, for which there is one estimate."""

    @property
    def cycles(self) -> int:
        """Estimated cycles of all runs; 0 if there is no estimate."""
        return 0 if self.is_fused else self.times * (self.instruction.cycles or 0)


@dataclass(frozen=True)
class Loop:
    """A `while` loop of a program."""

    op_name: str
    trips: int | None
    """Trip count; None if it depends on the data."""
    times: int
    """How often the loop is entered."""
    cycles_per_trip: int
    """Estimated cycles of one iteration, including inner loops."""


@dataclass(frozen=True)
class Collective:
    """An exchange of data between devices."""

    kind: str
    num_bytes: int
    """Bytes of the result on one device."""
    group_size: int
    """Number of devices in a group; 0 means all."""
    times: int
    op_name: str


Computation = dict[str, Instruction]


class Program:
    """The computations of one HLO module. Loops with a data-dependent trip count run `assumed_trips` times."""

    def __init__(self, text: str, assumed_trips: int = 1):
        self.assumed_trips = assumed_trips
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current: Computation = {}
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif match := _INSTRUCTION.match(line):
                current[match[2]] = _read_instruction(match[2], match[3], is_root=match[1] is not None)
        if not self.entry:
            raise ValueError("Expected the text of an HLO module with an ENTRY computation.")

    def runs(self) -> Iterator[ExecutedInstruction]:
        """Yields every instruction that runs, also in loops, branches and fusions. Every branch counts as taken."""
        return self._runs(self.entry, 1, "", is_fused=False)

    def loops(self) -> list[Loop]:
        """Returns all loops, outer ones first."""
        return [
            Loop(
                op_name=run.op_name,
                trips=self.known_trips(run.instruction),
                times=run.times,
                cycles_per_trip=sum(
                    inner.cycles
                    for name in run.instruction.called
                    for inner in self._runs(name, 1, "", is_fused=run.is_fused)
                ),
            )
            for run in self.runs()
            if run.instruction.opcode == "while"
        ]

    def collectives(self) -> list[Collective]:
        """Returns all collectives; an asynchronous one counts at its start."""
        found = []
        for run in self.runs():
            kind, shape = run.instruction.opcode.removesuffix("-start"), run.instruction.shape
            if kind in COLLECTIVES:
                if kind not in ("all-reduce", run.instruction.opcode):
                    shape = _elements(shape)[1]  # the start of others returns (operands, results, ...)
                size = _group_size(run.instruction.attributes)
                found.append(Collective(kind, count_bytes(shape), size, run.times, run.op_name))
        return found

    def known_trips(self, loop: Instruction) -> int | None:
        """Returns the trip count of a loop, as recorded by the compiler or counted here; None if data-dependent."""
        known = _first(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        return int(known) if known else self._counted_trips(loop)

    def _counted_trips(self, loop: Instruction) -> int | None:
        """Returns the trip count of `for (i = start; i < bound; i += step)` if all three are constants, else None."""
        condition, body = (
            self.computations[_first(rf"\b{role}=%?([\w.-]+)", loop.attributes)] for role in ("condition", "body")
        )
        around = next(c for c in self.computations.values() if c.get(loop.name) is loop)
        compare = _root(condition)
        if compare.opcode != "compare" or "direction=LT" not in compare.attributes:
            return None
        counter, bound = condition[compare.operands[0]], _constant(condition, compare.operands[1])
        index = _first(r"index=(\d+)", counter.attributes)
        initial, final = around[loop.operands[0]], _root(body)
        if counter.opcode != "get-tuple-element" or {initial.opcode, final.opcode} != {"tuple"}:
            return None
        start, step = _constant(around, initial.operands[int(index)]), body[final.operands[int(index)]]
        steps = [_constant(body, name) for name in step.operands if step.opcode == "add"]
        stride = next(filter(None, steps), 0)
        if bound is None or start is None or stride < 1:
            return None
        return max(math.ceil((bound - start) / stride), 0)

    def _runs(self, computation: str, times: int, op_name: str, *, is_fused: bool) -> Iterator[ExecutedInstruction]:
        names = _op_names(self.computations[computation])
        for instruction in self.computations[computation].values():
            own = names.get(instruction.name, op_name)
            yield ExecutedInstruction(instruction, times, own, is_fused)
            inner = times
            if instruction.opcode == "while":
                trips = self.known_trips(instruction)
                inner *= self.assumed_trips if trips is None else trips
            for called in instruction.called:
                yield from self._runs(called, inner, own, is_fused=is_fused or instruction.opcode == "fusion")


def count_bytes(shape: str) -> int:
    """Returns the bytes of an array or of a tuple of arrays, such as `(f32[8,4], bf16[3])`, without padding."""
    total = 0
    for kind, bits, sides in _ARRAY.findall(shape):
        width = 8 if kind == "pred" else int(bits or 0)
        total += math.ceil(width * math.prod(int(side.lstrip("<=")) for side in sides.split(",") if side) / 8)
    return total


def _read_instruction(name: str, text: str, *, is_root: bool) -> Instruction:
    """Parses `TYPE OPCODE(OPERANDS), ATTRIBUTES`, in which TYPE may be a tuple."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    start = text.index("(", end)
    stop = _closing(text, start)
    operands = text[start + 1 : stop]
    opcode = text[end:start].strip()
    names = (operands,) if opcode == "constant" else tuple(_NAME.findall(operands))
    return Instruction(name, opcode, _LAYOUT.sub("", text[:end]), names, text[stop + 1 :], is_root)


def _closing(text: str, start: int) -> int:
    """Returns the index of the bracket that closes the one at `start`, or the length of the text if there is none."""
    depth = 0
    for match in re.finditer(r"[(){}]", text[start:]):
        depth += 1 if match[0] in "({" else -1
        if depth == 0:
            return start + match.start()
    return len(text)


def _elements(shape: str) -> list[str]:
    """Returns the types of the elements of a tuple type."""
    elements, start = [], 1
    while start < len(shape) - 1:
        end = _closing(shape, start) + 1 if shape[start] == "(" else shape.index("]", start) + 1
        elements.append(shape[start:end])
        start = end + len(", ")
    return elements


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _root(computation: Computation) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.is_root)


def _op_names(computation: Computation) -> dict[str, str]:
    """Returns the op_name of each instruction; if the compiler created it, that of its first user or an operand."""
    named = (instruction for instruction in computation.values() if instruction.opcode != "parameter")
    names = {instruction.name: instruction.op_name for instruction in named if instruction.op_name}
    from_users: dict[str, str] = {}
    for instruction in reversed(computation.values()):
        own = names.setdefault(instruction.name, from_users.get(instruction.name, ""))
        if own:
            from_users |= dict.fromkeys(instruction.operands, own)
    for instruction in computation.values():
        if not names[instruction.name]:
            names[instruction.name] = next(filter(None, map(names.get, instruction.operands)), "")
    return {name: op_name for name, op_name in names.items() if op_name}


def _constant(computation: Computation, name: str) -> int | None:
    """Returns the integer constant that a name refers to, also through copies; None if it is not a constant."""
    instruction = computation[name]
    while instruction.opcode in ("copy", "bitcast", "convert"):
        instruction = computation[instruction.operands[0]]
    is_integer = instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.operands[0])
    return int(instruction.operands[0]) if is_integer else None


def _group_size(attributes: str) -> int:
    """Parses `replica_groups={{0,1},{2,3}}`, `=[2,2]<=[4]` or `=mesh['data'=2,'model'=2] {'model'}`; 0 means all."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        along = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])  # 'model':(2)4 is a part of an axis, of size 4
        return math.prod(int(part or sizes[axis]) for axis, part in along)
    listed = _first(r"replica_groups=\{\{([\d,]+)\}", attributes)
    counted = _first(r"replica_groups=\[\d+,(\d+)\]", attributes)
    return listed.count(",") + 1 if listed else int(counted or 0)
