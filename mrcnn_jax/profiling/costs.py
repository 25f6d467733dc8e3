"""Costs of a compiled program by part of the model: the TPU compiler's estimated cycles, and what has no estimate."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from mrcnn_jax.profiling.hlo import COLLECTIVES, Collective, ExecutedInstruction, Program, count_bytes

PARTS = {
    "backbone": "backbone",
    "MaskRCNN.normalise": "backbone",
    "MaskRCNN.extract_backbone_features": "backbone",
    "fpn": "FPN",
    "MaskRCNN.score_anchors": "RPN head",
    "make_anchors": "proposals",
    "propose": "proposals",
    "suppress_overlaps": "NMS",
    "select_boxes": "detections",
    "pool_rois": "RoI pooling",
    "MaskRCNN.classify_rois": "box head",
    "MaskRCNN.predict_masks": "mask head",
    "MaskRCNN.predict_keypoints": "keypoint head",
    "sample_anchors": "targets",
    "sample_rois": "targets",
    "rematch_rois": "targets",
    "sample_mask_targets": "targets",
    "encode_keypoints": "targets",
    "rpn_losses": "losses",
    "box_head_losses": "losses",
    "cascade_losses": "losses",
    "mask_head_loss": "losses",
    "keypoint_head_loss": "losses",
}
"""Parts of the model by the scopes in op_names, of which the innermost counts."""

FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "reshape",
    "while",
    "conditional",
    "call",
    "copy-start",
    "copy-done",
    "slice-start",
    "slice-done",
    "async-start",
    "async-update",
    "async-done",
}
"""Opcodes that compute nothing or, like copies, run concurrently with others."""

SCALAR = 8
"""Bytes of the largest scalar; scalars take negligible time."""


def summarise_program(text: str, assumed_trips: int, top: int) -> dict[str, Any]:
    """Summarises optimised HLO for JSON; loops of unknown trip count run `assumed_trips` times; lists end at `top`."""
    program = Program(text, assumed_trips)
    runs = list(program.runs())
    parts = cycles_by_part(runs)
    return {
        "collectives": group_collectives(program.collectives()),
        "estimated_cycles": {
            "total": sum(run.cycles for run in runs),
            "without_estimate": sum(part["without_estimate"] for part in parts.values()),
            "by_part": parts,
        },
        "loops": {
            "assumed_trips_where_unknown": assumed_trips,
            "loops": [dataclasses.asdict(loop) for loop in program.loops()],
        },
        "most_expensive": most_expensive(runs, top),
        "largest_without_estimate": largest_without_estimate(runs, top),
    }


def group_collectives(collectives: list[Collective]) -> list[dict[str, Any]]:
    """Groups collectives by kind, purpose and group size, with the number that run and their bytes on one device."""
    groups: dict[tuple[str, str, int], list[Collective]] = defaultdict(list)
    for collective in collectives:
        groups[collective.kind, purpose_of(collective), collective.group_size].append(collective)
    return [
        {
            "kind": kind,
            "what": purpose,
            "count": sum(one.times for one in group),
            "bytes": sum(one.times * one.num_bytes for one in group),
            "group_size": size,
        }
        for (kind, purpose, size), group in groups.items()
    ]


def purpose_of(collective: Collective) -> str:
    """Returns what devices exchange with it, by its op_name; the compiler may have merged other sums into it."""
    words = re.findall(r"[\w.]+", collective.op_name)
    if not words:
        return "unknown"
    if "shard_map" not in words:
        return "optimizer" if words[:2] == ["jit", "step"] else collective.op_name
    if "norm" in words:
        return "batch statistics"
    is_of_step = words[-2:-1] == ["shard_map"] and words[-1].startswith("psum")
    return "gradients and metrics" if is_of_step else collective.op_name


def part_of(run: ExecutedInstruction) -> str:
    """Returns the part of the model to which an instruction belongs."""
    if run.instruction.opcode.removesuffix("-start").removesuffix("-done") in COLLECTIVES:
        return "communication"
    words = re.findall(r"[\w.]+", run.op_name)
    parts = [PARTS[word] for word in words if word in PARTS]
    if parts:
        return parts[-1]
    return "optimizer" if words[:2] == ["jit", "step"] and "shard_map" not in words else "other"


def is_backward(run: ExecutedInstruction) -> bool:
    """Returns whether an instruction computes gradients."""
    return "transpose(" in run.op_name


def is_uncounted(run: ExecutedInstruction) -> bool:
    """Returns whether the compiler has no estimate though time passes: gathers, scatters, sorts, collectives."""
    instruction = run.instruction
    has_estimate = run.is_fused or instruction.cycles is not None
    is_free = instruction.opcode in FREE or "ConcatBitcast" in instruction.attributes
    return not has_estimate and not is_free and count_bytes(instruction.shape) > SCALAR


def cycles_by_part(runs: Iterable[ExecutedInstruction]) -> dict[str, dict[str, int]]:
    """Returns cycles forward and backward and the runs without an estimate by part, most expensive part first."""
    parts: dict[str, dict[str, int]] = defaultdict(lambda: {"forward": 0, "backward": 0, "without_estimate": 0})
    for run in runs:
        part = parts[part_of(run)]
        part["backward" if is_backward(run) else "forward"] += run.cycles
        part["without_estimate"] += run.times if is_uncounted(run) else 0
    return dict(sorted(parts.items(), key=lambda item: -item[1]["forward"] - item[1]["backward"]))


def most_expensive(runs: Iterable[ExecutedInstruction], count: int) -> list[dict[str, Any]]:
    """Returns the instructions with the most estimated cycles over all their runs."""
    largest = sorted(runs, key=lambda run: -run.cycles)[:count]
    return [summarise_run(run) for run in largest if run.cycles]


def largest_without_estimate(runs: Iterable[ExecutedInstruction], count: int) -> list[dict[str, Any]]:
    """Returns the instructions without an estimate, those with the largest results first."""
    uncounted = [run for run in runs if is_uncounted(run)]
    uncounted.sort(key=lambda run: -run.times * count_bytes(run.instruction.shape))
    return [summarise_run(run) for run in uncounted[:count]]


def summarise_run(run: ExecutedInstruction) -> dict[str, Any]:
    """Returns an instruction for JSON."""
    return {
        "name": run.instruction.name,
        "opcode": run.instruction.opcode,
        "part": part_of(run),
        "op_name": run.op_name,
        "shape": run.instruction.shape,
        "times": run.times,
        "bytes": count_bytes(run.instruction.shape),
        "cycles": None if is_uncounted(run) else run.cycles,
    }
