"""Summarises programs that XLA compiles for NVIDIA GPUs: kernels, library calls, waits for the host, and scatters.

The input is what the compiler dumps: the optimised HLO, the sequence of launches, and the PTX of the kernels.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mrcnn_jax.profiling.costs import group_collectives, is_backward, part_of
from mrcnn_jax.profiling.gpus import Gpu
from mrcnn_jax.profiling.hlo import ExecutedInstruction, Instruction, Program, count_bytes

Addition = Literal["atomic", "compare-and-swap"]
LAUNCHING = ("fusion", "custom-call", "copy", "sort")
"""HLO opcodes that become kernels, library calls or copies."""
KINDS = {
    "kKernel": "kernels",
    "kCustomKernel": "kernels",
    "kConvolution": "cuDNN",
    "kCublasLtMatmul": "cuBLAS",
    "kGemm": "cuBLAS",
    "kCopy": "copies",
    "kMemset32BitValue": "fills",
    "kMemzero": "fills",
}
"""Kinds of the compiler's steps with their names in the report; other kinds keep their own."""

_STEP = re.compile(r"( *)(\d+): k(\w+) +\[.*?\] ?(.*)")
_ENTRY = re.compile(r"\.entry (\w+)\(")
_ATOMIC = re.compile(r"\s(?:atom|red)\.(\S+)")
_DIMENSIONS = re.compile(r"\[([\d,]*)\]")


@dataclass(frozen=True)
class Launch:
    """One step of a program: a kernel, a library call, a copy, a loop, or a graph of these."""

    number: int
    kind: str
    """Kind, such as kCustomKernel or kWhile."""
    in_graph: bool
    """Whether it is part of a CUDA graph, which the host launches once."""


@dataclass(frozen=True)
class Dump:
    """The compiler's dump of one module."""

    hlo: str
    steps: str
    names: str
    """Names of the steps."""
    kernels: tuple[str, ...]
    """PTX of the kernels."""


def read_dump(folder: Path) -> Dump:
    """Reads what XLA dumped with `xla_dump_to` for the module compiled last; FileNotFoundError if there is none."""
    modules = sorted(folder.glob("module_*gpu_after_optimizations.txt"), key=lambda path: path.stat().st_mtime)
    if not modules:
        raise FileNotFoundError(f"{folder} has no module_*gpu_after_optimizations.txt: nothing was compiled for a GPU.")
    module = ".".join(modules[-1].name.split(".")[:2])

    def read(ending: str) -> str:
        return (folder / f"{module}.{ending}").read_text()

    return Dump(
        hlo=modules[-1].read_text(),
        steps=read("thunk_sequence_after_thunk_passes.txt"),
        names=read("thunk_metadata.txt"),
        kernels=tuple(path.read_text() for path in sorted(folder.glob(f"{module}.*ptx"))),
    )


def summarise_gpu_program(dump: Dump, gpu: Gpu, assumed_trips: int, top: int) -> dict[str, Any]:
    """Summarises launches and costs of a program for JSON; loops of unknown trip count run `assumed_trips` times."""
    program = Program(dump.hlo, assumed_trips)
    runs = [run for run in program.runs() if not run.is_fused]
    launches = read_steps(dump.steps)
    shapes = {name: one.shape for computation in program.computations.values() for name, one in computation.items()}
    return {
        "launches": count_launches(launches),
        "loops": summarise_loops(program, launches, dump.names),
        "library_calls": count_library_calls(runs),
        "convolutions_not_bfloat16": [
            summarise_instruction(run)
            for run in runs
            if "__cudnn$conv" in target_of(run.instruction) and dtype_of(run) != "bf16"
        ],
        "scatters": summarise_scatters(runs, dump.kernels),
        "sorts": summarise_sorts(program),
        "host_callbacks": [summarise_instruction(run) for run in runs if "callback" in target_of(run.instruction)],
        "collectives": group_collectives(program.collectives()),
        "estimated_microseconds": estimate(runs, shapes, gpu, top),
    }


def read_steps(text: str) -> list[Launch]:
    """Returns the steps of a sequence of thunks, including loops and graphs; steps inside loops occur once."""
    launches: list[Launch] = []
    around: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not (match := _STEP.match(line)):
            continue
        indent, kind = len(match[1]), f"k{match[3]}"
        while around and around[-1][0] >= indent:
            around.pop()
        launches.append(Launch(int(match[2]), kind, any(outer == "kCommandBuffer" for _, outer in around)))
        around.append((indent, kind))
    return launches


def count_launches(launches: Iterable[Launch]) -> dict[str, Any]:
    """Counts the steps of each kind inside and outside of CUDA graphs."""
    counts: dict[str, dict[str, int]] = {"in_graphs": Counter(), "outside": Counter()}
    graphs = 0
    for launch in launches:
        if launch.kind == "kCommandBuffer":
            graphs += 1
        else:
            counts["in_graphs" if launch.in_graph else "outside"][KINDS.get(launch.kind, launch.kind)] += 1
    return {"graphs": graphs, **{place: dict(sorted(kinds.items())) for place, kinds in counts.items()}}


def summarise_loops(program: Program, launches: Iterable[Launch], names: str) -> list[dict[str, Any]]:
    """Returns the loops and their trip counts, None if data-dependent; the host waits in those outside CUDA graphs."""
    found = re.findall(r'profile_annotation: "([^"]+)"\s+thunk_id: (\d+)\s+\}\s+thunk_kind: "kWhile"', names)
    name_of = {int(number): name for name, number in found}
    in_graph = {name_of.get(launch.number): launch.in_graph for launch in launches if launch.kind == "kWhile"}
    loops = [run for run in program.runs() if run.instruction.opcode == "while"]
    return [
        {
            "op_name": run.op_name,
            "trips": program.known_trips(run.instruction),
            "entered": run.times,
            "in_graph": in_graph.get(run.instruction.name, False),
        }
        for run in loops
    ]


def count_library_calls(runs: Iterable[ExecutedInstruction]) -> list[dict[str, Any]]:
    """Counts the calls of cuDNN, cuBLAS and other libraries by function and dtype."""
    calls: Counter[tuple[str, str]] = Counter()
    for run in runs:
        if run.instruction.opcode == "custom-call":
            calls[target_of(run.instruction), dtype_of(run)] += run.times
    return [{"function": name, "dtype": dtype, "times": times} for (name, dtype), times in calls.most_common()]


def summarise_scatters(runs: Iterable[ExecutedInstruction], kernels: Iterable[str]) -> list[dict[str, Any]]:
    """Returns every kernel that adds atomically: with one instruction, or with compare-and-swap in a loop."""
    adding: dict[str, Addition] = {}
    for text in kernels:
        name = ""
        for line in text.splitlines():
            if entry := _ENTRY.search(line):
                name = entry[1]
            elif operation := _ATOMIC.search(line):
                swaps = ".cas." in f".{operation[1]}."
                adding[name] = "compare-and-swap" if swaps or adding.get(name) == "compare-and-swap" else "atomic"
    found = []
    for run in runs:
        how = adding.get(re.sub(r"\W", "_", run.instruction.name))
        if how:
            found.append({**summarise_instruction(run), "adds_by": how})
    return sorted(found, key=lambda scatter: -scatter["bytes"])


def summarise_sorts(program: Program) -> list[dict[str, Any]]:
    """Returns sorts and top-k selections, largest first. XLA's own bitonic sort launches a kernel for each pass."""
    found = []
    for run in program.runs():
        target = target_of(run.instruction)
        if run.instruction.opcode == "sort":
            how = "bitonic"
        elif "DeviceRadixSort" in target or "TopK" in target:
            how = target
        else:
            continue
        sides = [int(side) for side in _DIMENSIONS.findall(run.instruction.shape)[0].split(",") if side]
        rows, length = math.prod(sides[:-1]), sides[-1] if sides else 1
        found.append({"rows": rows, "length": length, "how": how, "times": run.times, "op_name": run.op_name})
    return sorted(found, key=lambda sort: -sort["rows"] * sort["length"])


def estimate(runs: Iterable[ExecutedInstruction], shapes: dict[str, str], gpu: Gpu, top: int) -> dict[str, Any]:
    """Returns lower bounds of time by part: convolutions at the peak of their dtype, all else by XLA's cost model.

    Without such a model, a run takes the time of its bytes at full bandwidth or, for a product, that of its operations
    at the peak, whichever is longer.
    """
    parts: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
    costs: list[tuple[float, ExecutedInstruction]] = []
    without: Counter[str] = Counter()
    for run in runs:
        if run.instruction.opcode not in LAUNCHING:
            continue
        each = estimate_one(run, shapes, gpu)
        if each is None:
            without[target_of(run.instruction) or run.instruction.opcode] += run.times
            continue
        parts[part_of(run)]["backward" if is_backward(run) else "forward"] += each * run.times
        costs.append((each * run.times, run))
    costs.sort(key=lambda cost: -cost[0])
    by_part = sorted(parts.items(), key=lambda item: -sum(item[1].values()))
    return {
        "total": round(sum(cost for cost, _ in costs), 1),
        "without_estimate": dict(without),
        "by_part": {name: {way: round(time, 1) for way, time in times.items()} for name, times in by_part},
        "most_expensive": [{**summarise_instruction(run), "microseconds": round(cost, 1)} for cost, run in costs[:top]],
    }


def estimate_one(run: ExecutedInstruction, shapes: dict[str, str], gpu: Gpu) -> float | None:
    """Returns the microseconds of one run, or None if they are unknown."""
    instruction = run.instruction
    target = target_of(instruction)
    peak = gpu.bfloat16_flops if dtype_of(run) in ("bf16", "f16") else gpu.tf32_flops
    if "__cudnn$conv" in target:
        return count_flops(instruction, shapes) / peak * 1e6
    if costs := re.search(r'"reification_cost":\[(.*?)\]', instruction.attributes):
        times = re.findall(r'"exec_time_us":([\d.e+-]+)', costs[1])
        if times:
            return float(times[-1])  # the last one is that of the speed-of-light model
    if gpu.is_modelled and instruction.opcode != "copy":
        return None
    moved = count_bytes(instruction.shape) + sum(count_bytes(shapes[name]) for name in set(instruction.operands))
    flops = count_product_flops(instruction, shapes) if "matmul" in target or "gemm" in target else 0
    if instruction.opcode == "sort" or (instruction.opcode == "custom-call" and not flops):
        return None
    return max(moved / gpu.bandwidth, flops / peak) * 1e6


def count_product_flops(instruction: Instruction, shapes: dict[str, str]) -> int:
    """Returns the multiplications and additions of a matrix product of cuBLAS."""
    contracted = re.search(r'"lhs_contracting_dimensions":\[([^]]*)\]', instruction.attributes)
    assert contracted, instruction
    left = sides_of(shapes[instruction.operands[0]])
    depth = math.prod(left[int(axis)] for axis in re.findall(r"\d+", contracted[1]))
    return 2 * math.prod(sides_of(instruction.shape)) * depth


def count_flops(instruction: Instruction, shapes: dict[str, str]) -> int:
    """Returns the multiplications and additions of a convolution of cuDNN, forward or for a gradient."""
    labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
    assert labels, instruction
    result = sides_of(instruction.shape)
    first, second = (sides_of(shapes[name]) for name in instruction.operands[:2])
    if "BackwardFilter" in target_of(instruction):
        kernel, output = result, second
    elif "BackwardInput" in target_of(instruction):
        kernel, output = second, first
    else:
        kernel, output = second, result
    return 2 * math.prod(output) * math.prod(kernel) // kernel[labels[1].index("o")]


def summarise_instruction(run: ExecutedInstruction) -> dict[str, Any]:
    """Returns an instruction for JSON."""
    return {
        "name": run.instruction.name,
        "part": part_of(run),
        "op_name": run.op_name,
        "shape": run.instruction.shape,
        "times": run.times,
        "bytes": count_bytes(run.instruction.shape),
    }


def target_of(instruction: Instruction) -> str:
    """Returns the function that a custom-call calls, or an empty string for other instructions."""
    target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return target[1] if target else ""


def dtype_of(run: ExecutedInstruction) -> str:
    """Returns the dtype of the result, or of the first of several."""
    dtype = re.match(r"\(*(\w+)\[", run.instruction.shape)
    return dtype[1] if dtype else ""


def sides_of(shape: str) -> list[int]:
    """Returns the sides of an array, or of the first of several."""
    return [int(side) for side in _DIMENSIONS.findall(shape)[0].split(",") if side]
