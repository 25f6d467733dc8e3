"""Balanced sampling: quotas, no invalid pick, uniformity, and randomness that follows the key alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.ops.matching import Match
from mrcnn_jax.ops.sampling import sample_balanced


def make_states(num_foreground: int, num_background: int, num_ignored: int) -> jax.Array:
    states = [Match.FOREGROUND] * num_foreground + [Match.BACKGROUND] * num_background + [Match.IGNORE] * num_ignored
    return jnp.asarray(np.random.default_rng(0).permutation(np.array(states, np.int32)))


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ((50, 50, 50), (8, 24)),  # quota full
        ((3, 50, 50), (3, 29)),  # background fills what foreground leaves
        ((50, 5, 50), (8, 5)),  # not enough background: foreground does not exceed its quota
        ((3, 4, 50), (3, 4)),
        ((0, 50, 0), (0, 32)),
        ((50, 0, 0), (8, 0)),
        ((0, 0, 9), (0, 0)),
        ((1, 1, 0), (1, 1)),  # fewer candidates than slots
    ],
)
def test_quotas(available, expected):
    states = make_states(*available)
    sample = sample_balanced(states, num_samples=32, max_foreground=8, key=jax.random.key(1))
    num_foreground, num_background = expected
    valid, index = np.asarray(sample.valid), np.asarray(sample.indices)
    assert valid.shape == (32,) and index.dtype == np.int32
    np.testing.assert_array_equal(valid, np.arange(32) < num_foreground + num_background)
    np.testing.assert_array_equal(sample.is_foreground, np.arange(32) < num_foreground)
    chosen = np.asarray(states)[index[valid]]
    np.testing.assert_array_equal(chosen[:num_foreground], Match.FOREGROUND)
    np.testing.assert_array_equal(chosen[num_foreground:], Match.BACKGROUND)
    assert len(set(index[valid])) == valid.sum()  # without replacement
    np.testing.assert_array_equal(index[~valid], 0)


def test_all_eligible_are_taken_when_they_fit():
    states = make_states(5, 7, 100)
    sample = sample_balanced(states, num_samples=12, max_foreground=6, key=jax.random.key(0))
    np.testing.assert_array_equal(np.sort(sample.indices), np.flatnonzero(np.asarray(states) != Match.IGNORE))


def test_every_candidate_is_equally_likely():
    states, num_keys = make_states(20, 40, 10), 4000
    draw = partial(sample_balanced, num_samples=15, max_foreground=5)
    keys = jax.random.split(jax.random.key(3), num_keys)
    samples = jax.jit(jax.vmap(lambda key: draw(states, key=key)))(keys)
    counts = np.bincount(np.asarray(samples.indices).ravel(), minlength=70)
    for state, share in ((Match.FOREGROUND, 5 / 20), (Match.BACKGROUND, 10 / 40), (Match.IGNORE, 0.0)):
        deviation = np.abs(counts[np.asarray(states) == state] - num_keys * share)
        assert deviation.max() <= 5 * np.sqrt(num_keys * share * (1 - share))  # five sigma


def test_seeds_differ_and_repeat():
    states = make_states(100, 100, 0)
    first, again, other = (
        sample_balanced(states, num_samples=20, max_foreground=10, key=jax.random.key(seed)).indices
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.count_nonzero(np.asarray(first) != np.asarray(other)) > 10


def test_foreground_and_background_are_drawn_independently():
    # With one key for both, equal positions would be chosen from both halves.
    states = jnp.asarray([Match.FOREGROUND] * 100 + [Match.BACKGROUND] * 100, jnp.int32)
    sample = sample_balanced(states, num_samples=20, max_foreground=10, key=jax.random.key(0))
    assert set(np.asarray(sample.indices[:10])) != set(np.asarray(sample.indices[10:]) - 100)


def test_more_ignored_rows_behind_change_nothing():
    states = make_states(30, 60, 10)
    draw = partial(sample_balanced, num_samples=32, max_foreground=8)
    expected = draw(states, key=jax.random.key(5))
    padded = draw(jnp.pad(states, (0, 41)), key=jax.random.key(5))
    np.testing.assert_array_equal(padded.indices, expected.indices)
    np.testing.assert_array_equal(padded.valid, expected.valid)


def test_vmap_equals_loop_and_jit_equals_eager():
    states = jnp.stack([make_states(20, 30, 0), make_states(2, 8, 40)])
    draw = partial(sample_balanced, num_samples=16, max_foreground=4)
    keys = lambda: jax.random.split(jax.random.key(9), 2)  # noqa: E731
    together = jax.vmap(lambda s, key: draw(s, key=key))(states, keys())
    for index, key in enumerate(keys()):
        alone = jax.jit(draw)(states[index], key=key)
        np.testing.assert_array_equal(together.indices[index], alone.indices)
        np.testing.assert_array_equal(together.valid[index], alone.valid)
