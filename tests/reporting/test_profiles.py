"""Milliseconds by part of the model: nested events count once, and a real profile's instructions are the program's."""

import functools

import jax
import jax.numpy as jnp

from mrcnn_jax.reporting.profiles import own_times, profile_calls, sum_parts
from mrcnn_jax.reporting.programs import Program

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


def test_parts_of_a_call() -> None:
    lines = [[(0.0, 4e6, "loop"), (4e6, 8e6, "conv")], [(0.0, 2e6, "sum"), (1e7, 1e6, "kernel")]]
    found = sum_parts(lines, Program(TEXT), 2)
    assert found == {
        "FPN": {"forward": 0, "backward": 4},
        "proposals": {"forward": 2, "backward": 0},
        "optimizer": {"forward": 1, "backward": 0},
        "unknown": {"forward": 0.5, "backward": 0},
    }
    assert list(found) == ["FPN", "proposals", "optimizer", "unknown"]


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
