"""Estimated cycles by part of the model, and what they leave out."""

import json

import pytest

from mrcnn_jax.profiling.costs import (
    group_collectives,
    is_backward,
    part_of,
    purpose_of,
    summarise_program,
)
from mrcnn_jax.profiling.hlo import Collective, ExecutedInstruction, Program

HEADER = "HloModule jit_step\n\n%sum (a: f32[], b: f32[]) -> f32[] {\n  ROOT %a = f32[] parameter(0)\n}\n"


def program(*lines: tuple[str, str, str, int | None]) -> str:
    """HLO of instructions given as name, `TYPE OPCODE(...)`, op_name and cycles."""
    text = f"{HEADER}\nENTRY %main (x: f32[8]) -> f32[8] {{\n  %x = f32[8]{{0}} parameter(0)\n"
    for name, instruction, op_name, cycles in lines:
        estimate = "" if cycles is None else f', backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'
        text += f'  %{name} = {instruction}, metadata={{op_name="{op_name}"}}{estimate}\n'
    return text + "}\n"


def run_of(op_name: str, instruction: str = "f32[8]{0} add(%x, %x)") -> ExecutedInstruction:
    return list(Program(program(("y", instruction, op_name, None))).runs())[-1]


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        (
            "jvp(MaskRCNN.extract_features)/MaskRCNN.extract_backbone_features/backbone/layer1_0/conv1/conv/add",
            "backbone",
        ),
        ("jvp(MaskRCNN.extract_features)/MaskRCNN.extract_backbone_features/MaskRCNN.normalise/sub", "backbone"),
        ("transpose(jvp(MaskRCNN.extract_features))/fpn/output2/conv/reduce_sum", "FPN"),
        ("jvp(MaskRCNN.score_anchors)/rpn_head/conv/add", "RPN head"),
        ("jvp(vmap(propose))/top_k", "proposals"),
        ("jvp(vmap(propose))/suppress_overlaps/while/body/while/body/gather", "NMS"),
        ("vmap(select_boxes)/suppress_overlaps/while", "NMS"),
        ("vmap(select_boxes)/top_k", "detections"),
        ("transpose(jvp(mask_head_loss))/pool_rois/vmap()/scatter-add", "RoI pooling"),
        ("jvp(box_head_losses)/MaskRCNN.classify_rois/box_head/fc1/dot_general", "box head"),
        ("jvp(box_head_losses)/MaskRCNN.classify_rois/res5/layer4_0/conv1/conv/add", "box head"),
        ("jvp(mask_head_loss)/MaskRCNN.predict_masks/mask_head/conv1/conv/add", "mask head"),
        ("jvp(keypoint_head_loss)/MaskRCNN.predict_keypoints/keypoint_head/add", "keypoint head"),
        ("jvp(mask_head_loss)/vmap(sample_mask_targets)/reduce_sum", "targets"),
        ("jvp(vmap(sample_anchors))/while/body/add", "targets"),
        ("jvp(box_head_losses)/log_softmax/exp", "losses"),
        ("psum", "other"),
    ],
)
def test_the_innermost_scope_says_the_part(op_name: str, part: str) -> None:
    run = run_of(f"jit(step)/shard_map/{op_name}")
    assert part_of(run) == part and is_backward(run) == op_name.startswith("transpose")


def test_what_stands_outside_of_the_devices_own_part_is_the_optimizer() -> None:
    assert part_of(run_of("jit(step)/add")) == "optimizer"
    assert part_of(run_of("")) == part_of(run_of("jit(predict)/add")) == "other"
    reduce = "f32[8]{0} all-reduce(%x), to_apply=%sum"
    assert part_of(run_of("jit(step)/shard_map/psum", reduce)) == "communication"


@pytest.mark.parametrize(
    ("op_name", "purpose"),
    [
        ("jit(step)/shard_map/psum", "gradients and metrics"),
        ("jit(step)/shard_map/psum_invariant", "gradients and metrics"),
        ("jit(step)/shard_map/jvp(M.f)/backbone/stem/norm/psum", "batch statistics"),
        ("jit(step)/shard_map/transpose(jvp(M.f))/backbone/stem/norm/psum", "batch statistics"),
        ("jit(step)/mul", "optimizer"),
        ("jit(step)/shard_map/jvp(propose)/top_k", "jit(step)/shard_map/jvp(propose)/top_k"),
        ("shard_map", "shard_map"),
        ("", "unknown"),
    ],
)
def test_what_devices_tell_each_other(op_name: str, purpose: str) -> None:
    assert purpose_of(Collective("all-reduce", 4, 8, 1, op_name)) == purpose


def test_collectives_of_one_purpose_are_added_up() -> None:
    gradients = Collective("all-reduce", 100, 8, 1, "jit(step)/shard_map/psum")
    statistics = Collective("all-reduce", 4, 8, 3, "jit(step)/shard_map/jvp(M.f)/stem/norm/psum")
    gather = Collective("all-gather", 50, 8, 1, "jit(step)/add")
    assert [tuple(group.values()) for group in group_collectives([statistics, gradients, gather, gradients])] == [
        ("all-reduce", "batch statistics", 3, 12, 8),
        ("all-reduce", "gradients and metrics", 2, 200, 8),
        ("all-gather", "optimizer", 1, 50, 8),
    ]


def test_a_program_in_json() -> None:
    report = summarise_program(
        program(
            ("conv", "f32[8]{0} add(%x, %x)", "jit(step)/shard_map/jvp(M)/backbone/add", 30),
            ("grad", "f32[8]{0} add(%conv, %x)", "jit(step)/shard_map/transpose(jvp(M))/backbone/add", 50),
            ("gather", "f32[8]{0} gather(%x, %x)", "jit(step)/shard_map/jvp(losses)/pool_rois/gather", None),
            ("count", "s32[] add(%x, %x)", "jit(step)/shard_map/jvp(losses)/pool_rois/add", None),
            ("one", "f32[8]{0} all-reduce(%grad), to_apply=%sum", "jit(step)/shard_map/psum", None),
            ("two", "f32[4]{0} all-reduce(%x), to_apply=%sum", "jit(step)/shard_map/psum", None),
            ("new", "f32[8]{0} add(%one, %two)", "jit(step)/add", 10),
        ),
        assumed_trips=3,
        top=2,
    )
    assert json.loads(json.dumps(report)) == report
    assert report["collectives"] == [
        {"kind": "all-reduce", "what": "gradients and metrics", "count": 2, "bytes": 48, "group_size": 0}
    ]
    cycles = report["estimated_cycles"]
    assert (cycles["total"], cycles["without_estimate"]) == (90, 3)  # a scalar is not worth counting
    assert list(cycles["by_part"]) == ["backbone", "optimizer", "RoI pooling", "communication"]
    assert cycles["by_part"]["backbone"] == {"forward": 30, "backward": 50, "without_estimate": 0}
    assert cycles["by_part"]["RoI pooling"] == {"forward": 0, "backward": 0, "without_estimate": 1}
    assert [row["name"] for row in report["most_expensive"]] == ["grad", "conv"]
    assert [row["name"] for row in report["largest_without_estimate"]] == ["gather", "one"]
    assert report["largest_without_estimate"][0]["cycles"] is None
    assert report["loops"] == {"assumed_trips_where_unknown": 3, "loops": []}
