"""Milliseconds by part of the model: nested events count once, and a real profile's instructions are the program's."""

import functools

import jax
import jax.numpy as jnp
import pytest

from mrcnn_jax.profiling.hlo import Program
from mrcnn_jax.profiling.traces import own_times, profile_calls, read_profile, sum_parts

TEXT = """HloModule jit_step

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %loop = f32[8]{0} add(%x, %x), metadata={op_name="jit(step)/shard_map/jvp(propose)/add"}
  %conv = f32[8]{0} add(%x, %x), metadata={op_name="jit(step)/shard_map/transpose(jvp(fpn))/add"}
  ROOT %sum = f32[8]{0} add(%x, %x), metadata={op_name="jit(step)/add"}
}
"""


def test_an_event_inside_another_counts_once() -> None:
    # `loop` runs from 0 to 100 with two events inside, one of which has one itself; then `conv`.
    events = [(100.0, 50.0, "conv"), (0.0, 100.0, "loop"), (10.0, 30.0, "a"), (40.0, 40.0, "b"), (50.0, 10.0, "a")]
    found: dict[str, float] = {}
    for name, own in own_times(events):
        found[name] = found.get(name, 0) + own
    assert found == {"loop": 30, "a": 40, "b": 30, "conv": 50}
    assert list(own_times([])) == []


def test_an_outer_event_that_starts_with_its_inner_one_is_the_outer_one() -> None:
    assert dict(own_times([(0.0, 5.0, "inner"), (0.0, 20.0, "outer")])) == {"inner": 5, "outer": 15}


def test_events_that_cross_count_in_full() -> None:
    assert dict(own_times([(0.0, 10.0, "a"), (5.0, 20.0, "b")])) == {"a": 10, "b": 20}
    inside = [(0.0, 100.0, "loop"), (10.0, 60.0, "a"), (20.0, 70.0, "b")]
    assert dict(own_times(inside)) == {"loop": 0, "a": 60, "b": 70}


def test_parts_of_a_call() -> None:
    lines = [[(0.0, 4e6, "loop"), (4e6, 8e6, "conv")], [(0.0, 2e6, "sum"), (1e7, 1e6, "kernel")]]
    found = sum_parts({"host 0": lines}, Program(TEXT), 2)
    expected = {"FPN": (0, 4), "proposals": (2, 0), "optimizer": (1, 0), "unknown": (0.5, 0)}
    assert list(found) == list(expected)
    for part, (forward, backward) in expected.items():
        assert found[part] == pytest.approx({"forward": forward, "backward": backward})
    assert sum_parts({"host 0": lines, "host 1": lines}, Program(TEXT), 2) == found  # the same on each device
    assert sum_parts({}, Program(TEXT), 2) == {}


def event_of(start: int, duration: int, name: str, names: list[str], **stats: str) -> str:
    """An event in nanoseconds; its name and the names of its statistics and of their values are indices."""
    index = [f"metadata_id: {names.index(key)} ref_value: {names.index(value)}" for key, value in stats.items()]
    values = " ".join(f"stats {{ {each} }}" for each in index)
    return f"events {{ metadata_id: {names.index(name)} offset_ps: {start}000 duration_ps: {duration}000 {values} }}"


def plane_of(name: str, lines: dict[str, list[str]], names: list[str]) -> str:
    """A plane of the profiler's file, in the text form of its format."""
    kinds = ("event_metadata", "stat_metadata")
    table = [f'{kind} {{ key: {i} value {{ id: {i} name: "{n}" }} }}' for kind in kinds for i, n in enumerate(names)]
    rows = [f'lines {{ name: "{line}" {" ".join(events)} }}' for line, events in lines.items()]
    return f'planes {{ name: "{name}" {" ".join(rows + table)} }}'


def read(text: str) -> dict:
    content = jax.profiler.ProfileData.text_proto_to_serialized_xspace(text)
    return {device: sorted(lines) for device, lines in read_profile(content, "jit_step").items()}


def test_streams_of_a_gpu() -> None:
    names = ["", "hlo_module", "hlo_op", "jit_step", "jit_other", "conv", "kernel"]

    def kernel(start: int, module: str) -> str:
        return event_of(start, 10, "kernel", names, hlo_module=module, hlo_op="conv")

    streams = {"Stream #13(Compute)": [kernel(0, "jit_step"), kernel(20, "jit_other")]}
    streams |= {"Stream #14": [kernel(5, "jit_step")], "XLA Ops": [kernel(0, "jit_step")], "Stream #15": []}
    text = plane_of("/device:GPU:0", streams, names) + plane_of("/device:GPU:1", streams, names)
    text += plane_of("/host:CPU", {"python": [kernel(0, "jit_step")]}, names)  # what starts the kernels
    expected = [[(0, 10, "conv")], [(5, 10, "conv")]]
    assert read(text) == {"/device:GPU:0": expected, "/device:GPU:1": expected}


def test_instructions_of_a_tpu() -> None:
    names = ["", "jit_step(123)", "jit_other(9)", "%conv = f32[8]{0} add(%x, %x)", "%sum = f32[8]{0} add(%x, %x)"]
    modules = [event_of(0, 100, "jit_step(123)", names), event_of(100, 50, "jit_other(9)", names)]
    ops = [event_of(10, 30, names[3], names), event_of(40, 60, names[4], names), event_of(100, 30, names[3], names)]
    text = plane_of("/device:TPU:0", {"XLA Modules": modules, "XLA Ops": ops, "Async XLA Ops": ops}, names)
    text += plane_of("/device:CUSTOM:Megascale Trace", {}, [""])
    assert read(text) == {"/device:TPU:0": [[(10, 30, "conv"), (40, 60, "sum")]]}


def test_a_profile_of_this_machine() -> None:
    @jax.jit
    def step(x: jax.Array) -> jax.Array:
        with jax.named_scope("fpn"):
            x = x @ x
        with jax.named_scope("propose"):
            return jax.lax.fori_loop(0, 3, lambda _, y: jnp.sort(y @ y * 1e-3), x)

    x = jnp.ones((200, 200))
    compiled = step.lower(x).compile()
    other = jax.jit(lambda y: y @ y)
    jax.block_until_ready((compiled(x), other(x)))

    def call() -> jax.Array:
        return other(compiled(x))

    found = profile_calls(call, compiled.as_text(), 2)
    assert {"FPN", "proposals"} <= found.keys() <= {"FPN", "proposals", "other"}
    assert all(part["forward"] >= 0 == part["backward"] for part in found.values())
    assert found["proposals"]["forward"] > found["FPN"]["forward"] > 0  # three products and sorts against one product


def test_only_events_of_the_program_count() -> None:
    x = jnp.ones((50, 50))
    compiled = jax.jit(functools.partial(jnp.dot, x)).lower(x).compile()
    another = compiled.as_text().replace("HloModule ", "HloModule not_", 1)
    assert profile_calls(lambda: compiled(x), another, 1) == {}
