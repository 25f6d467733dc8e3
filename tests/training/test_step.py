"""One optimizer step: eight devices equal one, a filler image is no image, one compilation per canvas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny

LOSSES = {"loss/total", "loss/objectness", "loss/rpn_box", "loss/class", "loss/box", "loss/mask"}


@pytest.fixture(scope="session")
def five_steps(trainer):
    """The metrics of five steps on the same images, and the state after them, by the number of devices."""

    @functools.cache
    def run(num_devices: int):
        one = trainer(num_devices)
        state, history = one.start(), []
        for _ in range(5):
            state, metrics = one.run(state, tiny.make_batch(8), one.compiled if num_devices == 8 else one.step)
            history.append(metrics)
        return jax.device_get(state), history

    return run


def test_eight_devices_equal_one(five_steps):
    (one, expected), (eight, produced) = five_steps(1), five_steps(8)
    for step in range(5):
        for name in LOSSES:
            assert produced[step][name] == pytest.approx(expected[step][name], rel=1e-5), (step, name)
        assert produced[step]["foreground_rois"] == expected[step]["foreground_rois"]
        assert produced[step]["images"] == expected[step]["images"] == 8
        # A ReLU that flips in the last bit moves a gradient by a thousandth.
        assert produced[step]["gradient_norm"] == pytest.approx(expected[step]["gradient_norm"], rel=1e-3)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), eight.params, one.params)


def test_a_step_learns_and_counts(five_steps):
    state, history = five_steps(1)
    assert state.step == 5
    assert set(history[0]) >= LOSSES | {"gradient_norm", "foreground_rois", "images"}
    parts = sum(value for name, value in history[0].items() if name in LOSSES - {"loss/total"})
    assert history[0]["loss/total"] == pytest.approx(parts, rel=1e-5)
    assert history[0]["loss/total"] > 0 and history[0]["foreground_rois"] > 1
    assert history[-1]["loss/total"] < history[0]["loss/total"]


def test_the_old_state_is_given_away(trainer):
    one = trainer(1)
    state = one.start()
    after, _ = one.run(state, tiny.make_batch(8))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_fillers_are_no_images(trainer):
    # Metrics and gradient are means over the valid images; the content of fillers does not matter.
    one = trainer(1)
    valid = jnp.arange(8) < 3
    batch, other = tiny.make_batch(8), tiny.make_batch(8, seed=4)
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:3], b[3:]]), batch, other)
    results = [one.run(one.start(), candidate.replace(valid=valid)) for candidate in (batch, mixed)]
    (state, metrics), (other_state, other_metrics) = results
    assert metrics == other_metrics and metrics["images"] == 3
    jax.tree.map(np.testing.assert_array_equal, state.params, other_state.params)
    _, metrics = one.run(one.start(), batch.replace(valid=valid & False))
    assert metrics["images"] == metrics["loss/total"] == metrics["gradient_norm"] == 0


def test_metrics_are_means_over_images(trainer):
    one = trainer(1)
    batch = tiny.make_batch(8)
    _, whole = one.run(one.start(), batch)
    halves = [one.run(one.start(), batch.replace(valid=jnp.arange(8) // 4 == half))[1] for half in (0, 1)]
    for name in LOSSES | {"foreground_rois"}:
        assert whole[name] == pytest.approx((halves[0][name] + halves[1][name]) / 2, rel=1e-5)


def test_one_compilation_per_canvas(trainer, five_steps):
    five_steps(1)
    one = trainer(1)
    assert one.step._cache_size() == 1  # a state that a step gave back compiles nothing anew
    traced = []

    def step(*arguments):
        traced.append(arguments[1].images.shape[1:3])
        return one.step.__wrapped__(*arguments)

    jitted = jax.jit(step)
    for canvas in ((64, 64), (64, 96), (64, 64), (64, 96)):
        jax.eval_shape(jitted, one.start(), tiny.make_batch(8, canvas), jax.random.key(0))
    assert traced == [(64, 64), (64, 96)]
