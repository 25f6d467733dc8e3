"""What is read from HLO: shapes, how often loops run, and collectives, on programs written by hand."""

import pytest

from mrcnn_jax.profiling.hlo import Collective, Program, count_bytes

SUM = """
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%a, %b), backend_config={"estimated_cycles":"7"}
}
"""

LOOPS = """
HloModule jit_step, is_scheduled=true

FileNames
1 "step.py"

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0:T(128)} parameter(0)
  ROOT %mul = f32[8]{0:T(128)} multiply(%p, %p), metadata={op_name="jit(step)/mul"}
}

%inner_body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %two = s32[]{:T(128)} constant(2)
  %carry = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %x = f32[8]{0:T(128)} get-tuple-element(%carry), index=1
  %next = s32[]{:T(128)} add(%i, %two)
  %square = f32[8]{0:T(128)} fusion(%x), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"10"}
  ROOT %pair = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%next, %square)
}

%inner_condition (carry.1: (s32[], f32[8])) -> pred[] {
  %bound = s32[]{:T(128)} constant(8)
  %carry.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %bound), direction=LT, backend_config={"estimated_cycles":"1"}
}

%outer_body (y: f32[8]) -> f32[8] {
  %y = f32[8]{0:T(128)} parameter(0)
  %start = s32[]{:T(128)} constant(3)
  %start.copy = s32[]{:T(128)} copy(%start)
  %begin = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%start.copy, %y)
  %inner = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%begin), condition=%inner_condition, body=%inner_body, \
metadata={op_name="jit(step)/while/body/while"}
  ROOT %result = f32[8]{0:T(128)} get-tuple-element(%inner), index=1
}

%outer_condition (y.1: f32[8]) -> pred[] {
  %y.1 = f32[8]{0:T(128)} parameter(0)
  ROOT %true = pred[]{:T(512)} constant(true)
}

ENTRY %main (x.1: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0:T(128)} parameter(0), metadata={op_name="x[\\'a\\']"}
  ROOT %outer = f32[8]{0:T(128)} while(%x.1), condition=%outer_condition, body=%outer_body, \
metadata={op_name="jit(step)/while"}OUTER
}
"""
KNOWN = ', backend_config={"known_trip_count":{"n":"4"},"known_init_step":{"init":"0","step":"1"}}'


def entry(*lines: str, computations: str = SUM) -> Program:
    """A program with these lines in its entry computation."""
    body = "\n".join(f"  {line}" for line in lines)
    return Program(f"HloModule m\n{computations}\nENTRY %main (x: f32[8]) -> f32[8] {{\n{body}\n}}\n")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[8,4]", 128),
        ("bf16[8,4]", 64),
        ("pred[3]", 3),
        ("u8[2,2]", 4),
        ("s4[3]", 2),
        ("f8e4m3fn[5]", 5),
        ("c64[2]", 16),
        ("f32[]", 4),
        ("f32[0,4]", 0),
        ("(f32[2], (bf16[3], s32[]), token[])", 18),
        ("f32[<=5,2]", 40),
    ],
)
def test_bytes_of_shapes(shape: str, expected: int) -> None:
    assert count_bytes(shape) == expected


def test_loops_multiply() -> None:
    program = Program(LOOPS.replace("OUTER", KNOWN))
    outer, inner = program.loops()
    assert (outer.op_name, outer.trips, outer.times) == ("jit(step)/while", 4, 1)
    # 3, 5, 7: copies do not hide that the loop starts at a constant.
    assert (inner.op_name, inner.trips, inner.times) == ("jit(step)/while/body/while", 3, 4)
    assert inner.cycles_per_trip == 11 and outer.cycles_per_trip == 33
    square = next(run for run in program.runs() if run.instruction.name == "square")
    assert square.times == 12 and square.cycles == 120
    assert sum(run.cycles for run in program.runs()) == 4 * 3 * 11


@pytest.mark.parametrize("assumed", [1, 10])
def test_loops_that_depend_on_the_data_count_as_assumed(assumed: int) -> None:
    program = Program(LOOPS.replace("OUTER", ""), assumed_trips=assumed)
    assert [(loop.trips, loop.times) for loop in program.loops()] == [(None, 1), (3, assumed)]
    assert sum(run.cycles for run in program.runs()) == assumed * 3 * 11


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("direction=LT", "direction=NE"),
        ("%bound = s32[]{:T(128)} constant(8)", "%bound = s32[]{:T(128)} get-tuple-element(%carry.1), index=0"),
        ("%start = s32[]{:T(128)} constant(3)", "%start = s32[]{:T(128)} iota(), iota_dimension=0"),
        ("%two = s32[]{:T(128)} constant(2)", "%two = s32[]{:T(128)} constant(0)"),
        ("%next = s32[]{:T(128)} add(%i, %two)", "%next = s32[]{:T(128)} multiply(%i, %two)"),
    ],
)
def test_only_counters_are_counted(before: str, after: str) -> None:
    assert before in LOOPS
    outer, inner = Program(LOOPS.replace("OUTER", KNOWN).replace(before, after)).loops()
    assert (outer.trips, inner.trips) == (4, None)


def test_a_fusion_is_counted_once_and_a_reduction_does_not_run_its_sum() -> None:
    fused = SUM + "%fused (p: f32[8]) -> f32[] {\n  %p = f32[8] parameter(0)\n  %zero = f32[] constant(0)\n"
    fused += '  ROOT %inside = f32[] reduce(%p, %zero), to_apply=%sum, backend_config={"estimated_cycles":"5"}\n}\n'
    program = entry(
        "%x = f32[8]{0} parameter(0)",
        'ROOT %both = f32[] fusion(%x), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"20"}',
        computations=fused,
    )
    runs = {run.instruction.name: run for run in program.runs()}
    assert set(runs) == {"x", "both", "p", "zero", "inside"}
    assert runs["inside"].is_fused and runs["inside"].cycles == 0 and runs["both"].cycles == 20


def test_what_the_compiler_made_is_named_by_its_user_or_else_its_operand() -> None:
    program = entry(
        "%x = f32[8]{0} parameter(0), metadata={op_name=\"state.params[\\'kernel\\']\"}",
        "%layout = f32[8]{0} copy(%x)",
        "%twice = f32[8]{0} copy(%layout)",
        '%used = f32[8]{0} add(%twice, %twice), metadata={op_name="jit(step)/first" stack_frame_id=3}',
        '%later = f32[8]{0} add(%layout, %used), metadata={op_name="jit(step)/second"}',
        "ROOT %out = f32[8]{0} copy(%later)",
    )
    names = {run.instruction.name: run.op_name for run in program.runs()}
    # The name of a parameter says which argument it is, not what happens to it.
    assert names["x"] == names["layout"] == names["twice"] == names["used"] == "jit(step)/first"
    assert names["out"] == "jit(step)/second"


def test_a_tuple_of_two_widths_is_reduced_at_once() -> None:
    program = entry(
        "%x = f32[8]{0} parameter(0)",
        "%all = (f32[8,4]{1,0:T(8,128)}, /*index=1*/bf16[6]{0:T(256)(128)(2,1)}, f32[]{:T(128)}) "
        "all-reduce(%x, %x, %x), channel_id=1, replica_groups=[1,256]<=[256], to_apply=%sum, "
        'metadata={op_name="jit(step)/shard_map/psum"}',
        "ROOT %y = f32[8]{0} copy(%x)",
    )
    assert program.collectives() == [Collective("all-reduce", 128 + 12 + 4, 256, 1, "jit(step)/shard_map/psum")]


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("", 0),
        ("replica_groups={}, ", 0),
        ("replica_groups={{0,1,2,3}}, ", 4),
        ("replica_groups=[2,16]<=[32], ", 16),
        ("replica_groups=mesh['data'=8] {'data'}, use_global_device_ids=true, ", 8),
        ("replica_groups=mesh['data'=8,'model'=4,'x'=3] {'model','x'}, ", 12),
        ("replica_groups=mesh['data'=8,'model'=4] {'data':(2)2}, ", 2),
    ],
)
def test_the_devices_of_a_collective(groups: str, size: int) -> None:
    program = entry("%x = f32[8]{0} parameter(0)", f"ROOT %sum = f32[8]{{0}} all-reduce(%x), {groups}to_apply=%sum")
    assert [one.group_size for one in program.collectives()] == [size]


def test_asynchronous_collectives_count_once() -> None:
    wrapped = "%wrapped (w: f32[8]) -> f32[2] {\n  %w = f32[8]{0} parameter(0)\n"
    wrapped += "  ROOT %part = f32[2]{0} reduce-scatter(%w), replica_groups={{0,1,2,3}}, to_apply=%sum\n}\n"
    program = entry(
        "%x = bf16[8]{0} parameter(0)",
        "%gather = (bf16[8]{0}, bf16[32]{0}) all-gather-start(%x), replica_groups={{0,1,2,3}}, dimensions={0}",
        "%gathered = bf16[32]{0} all-gather-done(%gather)",
        "%sum-start = bf16[8]{0} all-reduce-start(%x), replica_groups={{0,1},{2,3}}, to_apply=%sum",
        "%sum-done = bf16[8]{0} all-reduce-done(%sum-start)",
        "%move = (bf16[8]{0}, bf16[8]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)",
        "%moved = bf16[8]{0} collective-permute-done(%move)",
        "%some = ((f32[8]{0}), f32[2]{0}, s32[]{:S(2)}) async-start(%x), calls=%wrapped",
        "%done = f32[2]{0} async-done(%some), calls=%wrapped",
        "ROOT %y = bf16[8]{0} copy(%moved)",
        computations=SUM + wrapped,
    )
    found = [(one.kind, one.num_bytes, one.group_size) for one in program.collectives()]
    assert found == [
        ("all-gather", 64, 4),
        ("all-reduce", 16, 2),
        ("collective-permute", 16, 0),
        ("reduce-scatter", 8, 4),
    ]


def test_a_start_may_gather_several_arrays() -> None:
    program = entry(
        "%x = f32[8]{0} parameter(0)",
        "ROOT %start = ((f32[8]{0:T(8)}, bf16[2]{0}), (f32[64]{0:T(8)}, bf16[16]{0})) all-gather-start(%x, %x)",
    )
    assert [one.num_bytes for one in program.collectives()] == [256 + 32]


def test_collectives_in_loops_count_each_time() -> None:
    reducing = LOOPS.replace("OUTER", KNOWN).replace("multiply(%p, %p)", "all-reduce(%p), to_apply=%sum") + SUM
    assert [(one.kind, one.num_bytes, one.times) for one in Program(reducing).collectives()] == [("all-reduce", 32, 12)]


def test_other_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        Program("module @jit_step { func.func public @main() }")
