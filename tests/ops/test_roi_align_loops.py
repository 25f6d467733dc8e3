"""RoIAlign's form for CPUs against the dense form and the float64 loop: RoIs of any size, gradients, batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mrcnn_jax.ops.roi_align import align_rois_dense, align_rois_in_loops, assign_levels
from tests import oracles
from tests.ops.test_roi_align import CANVAS, STRIDES, levels_of, make_pyramid, make_rois, options

STATIC = ("strides", "output_size", "sampling_ratio", "aligned")
dense = jax.jit(align_rois_dense, static_argnames=STATIC)


@functools.partial(jax.jit, static_argnames=STATIC)
def align(features, rois, levels, extents=None, **choices):
    whole = jnp.asarray([feature.shape[:2] for feature in features], jnp.int32)
    return align_rois_in_loops(features, rois, levels, whole if extents is None else extents, **choices)


EXTENTS = jnp.asarray([[40, 53], [20, 27], [10, 14], [5, 7]], jnp.int32)

HEIGHT, WIDTH = CANVAS
SPECIAL = {
    "one huge among many small": [[0, 0, WIDTH, HEIGHT], *([x, 40, x + 9, 47] for x in range(0, 200, 10))],
    "all huge": [[-2 * i, -i, WIDTH + 2 * i, HEIGHT + i] for i in range(1, 6)],
    "thin and long": [[0, 50.3, WIDTH, 51.4], [100.2, 0, 101.7, HEIGHT], [-50, 90.3, 300, 91.2], [3.1, -40, 4, 250]],
    "zero area": [[10, 10, 10, 10], [5, 7, 100, 7], [50, 9, 50, 90], [0, 0, 0, 0]],
    "beyond the edges": [[-90, -80, -10, -20], [240, 180, 300, 260], [-300, 50, -200, 90], [1000, 1000, 1200, 1100]],
    "reversed": [[60, 50, 20, 90], [120, 110, 20, 10]],
}


@functools.cache
def special(name: str) -> tuple[jax.Array, jax.Array]:
    rois = jnp.asarray(np.array(SPECIAL[name], np.float32))
    return rois, assign_levels(rois, 4)


@pytest.mark.parametrize("aligned", [True, False])
def test_adaptive_equals_loop(aligned):
    rois, pyramid = make_rois(), [np.asarray(f, np.float64) for f in make_pyramid()]
    levels = levels_of(rois)
    pooled = align(make_pyramid(), jnp.asarray(rois), jnp.asarray(levels), **options(0, aligned))
    for roi, level, found in zip(rois, levels, pooled, strict=True):
        expected = oracles.roi_align(pyramid[level], roi, STRIDES[level], 7, 0, aligned)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("ratio", [0, 2])
def test_equals_dense(name, ratio):
    rois, fitting = special(name)
    for levels in (fitting, jnp.zeros_like(fitting), jnp.full_like(fitting, 3)):  # of many samples on the finest
        for extents in (None, EXTENTS):
            inputs = (make_pyramid(), rois, levels, extents)
            choices = options(ratio, True)
            np.testing.assert_allclose(align(*inputs, **choices), dense(*inputs, **choices), atol=2e-5)


@pytest.mark.parametrize("ratio", [0, 2])
def test_gradients_equal_dense(ratio):
    rois = jnp.concatenate([special(name)[0] for name in SPECIAL])
    levels = jnp.arange(len(rois)) % 4
    weights = jax.random.normal(jax.random.key(0), (len(rois), 7, 7, 3))

    def gradient(form):
        def total(features):
            return (form(features, rois, levels, EXTENTS, **options(ratio, True)) * weights).sum()

        return jax.jit(jax.grad(total))(make_pyramid())

    for ours, theirs in zip(gradient(align), gradient(align_rois_dense), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * float(jnp.abs(theirs).max()) / 10)


def test_gradients_of_gradients():
    rois, features = jnp.asarray(make_rois()[[0, 9, 19]]), make_pyramid(2, channels=1)[2:]
    choices = {"strides": (16, 32), "output_size": 2, "sampling_ratio": 0, "aligned": True}
    pool = jax.jit(lambda features: align(features, rois, jnp.asarray([0, 1, 1]), **choices))
    check_grads(pool, (features,), order=2, modes="rev", atol=1e-3, rtol=1e-3, eps=1.0)


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 20, 2), (20, 1, 2), (2, 2, 2)])
def test_maps_of_one_cell_or_row(shape):
    features = (jax.random.normal(jax.random.key(1), shape),)
    rois, levels = jnp.array([[0.0, 0, 1, 1], [-3, -2, 30, 25], [0.3, 0.2, 0.9, 0.8]]), jnp.zeros(3, jnp.int32)
    choices = {"strides": (1,), "output_size": 3, "sampling_ratio": 0, "aligned": True}

    def pool_and_gradient(form):
        pooled, pull_back = jax.vjp(lambda features: form(features, rois, levels, **choices), features)
        return pooled, pull_back(jnp.ones_like(pooled))[0][0]

    for ours, theirs in zip(pool_and_gradient(align), pool_and_gradient(dense), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("ratio", [0, 2])
def test_vmap_equals_loop(ratio):
    rng = np.random.default_rng(0)
    pyramids = [make_pyramid(seed) for seed in (0, 1, 2)]
    corners, sides = 8.0 * rng.integers(0, 16, (3, 10, 2)), 56.0 * rng.integers(1, 3, (3, 10, 2))
    rois = jnp.asarray(np.concatenate([corners, corners + sides], axis=-1), jnp.float32)
    levels = jnp.asarray(rng.integers(0, 4, (3, 10)), jnp.int32)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pyramids)
    pool = functools.partial(align, **options(ratio, True))
    loss = jax.grad(lambda features, rois, levels: (pool(features, rois, levels) ** 2).sum())
    for function in (pool, loss):
        together = jax.jit(jax.vmap(function))(stacked, rois, levels)
        same_features = jax.jit(jax.vmap(function, in_axes=(None, 0, 0)))(pyramids[0], rois, levels)
        same_rois = jax.jit(jax.vmap(function, in_axes=(0, None, None)))(stacked, rois[0], levels[0])
        for index in range(3):
            one = jax.jit(function)
            check_all(together, index, one(pyramids[index], rois[index], levels[index]))
            check_all(same_features, index, one(pyramids[0], rois[index], levels[index]))
            check_all(same_rois, index, one(pyramids[index], rois[0], levels[0]))


def check_all(batched, index: int, expected) -> None:
    jax.tree.map(lambda found, one: np.testing.assert_allclose(found[index], one, atol=1e-4), batched, expected)


def test_vmap_of_vmap():
    factors = jnp.arange(1.0, 5.0).reshape(2, 2)
    features = jax.tree.map(lambda leaf: factors[..., None, None, None] * leaf[None, None], make_pyramid())
    rois, levels = special("beyond the edges")
    pool = functools.partial(align, **options(2, False))
    pooled = jax.jit(jax.vmap(jax.vmap(lambda f: pool(f, rois, levels))))(features)
    one = jax.jit(pool)(make_pyramid(), rois, levels)
    np.testing.assert_allclose(pooled, factors[..., None, None, None, None] * one[None, None], atol=1e-5)


def test_padding_does_not_matter():
    rois = jnp.asarray(make_rois())
    levels = assign_levels(rois, 4)
    rows = [jnp.arange(feature.shape[0])[:, None, None] for feature in make_pyramid()]
    columns = [jnp.arange(feature.shape[1])[None, :, None] for feature in make_pyramid()]
    parts = zip(make_pyramid(), rows, columns, EXTENTS, strict=True)
    spoilt = tuple(jnp.where((y < end[0]) & (x < end[1]), feature, jnp.nan) for feature, y, x, end in parts)
    expected = align(make_pyramid(), rois, levels, EXTENTS, **options(0, True))
    np.testing.assert_array_equal(align(spoilt, rois, levels, EXTENTS, **options(0, True)), expected)
    more_rois, more_levels = jnp.pad(rois, ((0, 5), (0, 0))), jnp.pad(levels, (0, 5))
    padded = align(make_pyramid(), more_rois, more_levels, EXTENTS, **options(0, True))
    np.testing.assert_array_equal(padded[: len(rois)], expected)
    assert (padded[len(rois) :] == 0).all()  # no area, no samples


def test_rois_that_are_not_numbers_harm_only_themselves():
    bad = [[np.nan] * 4, [0, 0, np.nan, 9], [np.inf] * 4, [0, 0, np.inf, np.inf], [-np.inf, 0, np.inf, 9]]
    rois, levels = jnp.asarray(make_rois()), levels_of(make_rois())
    together = jnp.concatenate([jnp.asarray(bad, jnp.float32), rois])
    found = align(make_pyramid(), together, jnp.asarray([0, 1, 2, 3, 0, *levels]), **options(0, True))
    np.testing.assert_array_equal(found[5:], align(make_pyramid(), rois, jnp.asarray(levels), **options(0, True)))


def test_bfloat16():
    features = tuple(feature.astype(jnp.bfloat16) for feature in make_pyramid())
    rois, levels = special("one huge among many small")
    exact = tuple(feature.astype(jnp.float32) for feature in features)
    pooled = align(features, rois, levels, **options(0, True))
    assert pooled.dtype == jnp.bfloat16
    expected = align(exact, rois, levels, **options(0, True))
    np.testing.assert_array_equal(pooled, expected.astype(jnp.bfloat16))


def test_nothing_but_rois_is_kept_for_the_gradients():
    features = make_pyramid(channels=64)
    rois, levels = jnp.tile(jnp.asarray(make_rois()), (8, 1)), jnp.tile(jnp.asarray(levels_of(make_rois())), 8)

    def gradient(features, weights):
        return jax.vjp(lambda f: align(f, rois, levels, **options(2, True)), features)[1](weights)[0]

    program = jax.jit(gradient).lower(features, jnp.zeros((len(rois), 7, 7, 64))).compile()
    size = sum(feature.nbytes for feature in features)
    assert program.memory_analysis().temp_size_in_bytes < size  # the scratch of one RoI
