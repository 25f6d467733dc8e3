"""What is chosen at scale: a split optimizer state, and gradients that are sent in bfloat16."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from mrcnn_jax.mesh import batch_sharding, local_copies, local_mesh, place, replicated
from tests import tiny

SMALL = replace(tiny.MODEL, neck="dc5", masks=False)
"""Compiles in half the time of the tiny model; the optimizer and the sums over devices are the same for any model."""


@pytest.fixture(scope="module")
def eight(make_trainer):
    return make_trainer(SMALL, 8)


def test_a_split_optimizer_state_gives_the_same_parameters(eight):
    batch = tiny.make_batch(8)
    program = eight.make_program(shard_optimizer=True)
    start = eight.start()
    expected, _ = eight.run(start, batch)
    state, _ = eight.run(place(jax.device_get(eight.start()), program.state_shardings), batch, program.step)
    for leaf, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        assert leaf.sharding.is_fully_replicated
        np.testing.assert_allclose(leaf, other, rtol=1e-6, atol=1e-8)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.opt_state))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    assert held < 0.2 * whole  # an eighth, and the few leaves that do not divide


def test_gradients_in_bfloat16_are_sent_as_such_and_are_close(eight):
    batch = tiny.make_batch(8)
    state, placed = eight.start(), jax.device_put(batch, batch_sharding(eight.mesh))
    key = jax.device_put(jax.random.key(0), replicated(eight.mesh))
    lowered = eight.make_program(gradient_dtype="bfloat16").step.lower(state, placed, key)
    _, metrics = eight.run(eight.start(), batch)
    _, found = eight.run(state, batch, lowered.compile())
    assert found["loss/total"] == metrics["loss/total"]
    assert abs(found["gradient_norm"] - metrics["gradient_norm"]) < 0.02 * metrics["gradient_norm"]
    text = lowered.as_text()
    assert "all_reduce" in text and "bf16" in text  # a CPU's program sends them as float32 again


def test_copies_of_one_process_are_those_of_its_devices(eight):
    state = eight.start()
    copies = local_copies(state.params, eight.mesh)
    assert local_mesh(eight.mesh).size == 8
    jax.tree.map(np.testing.assert_array_equal, copies, state.params)
