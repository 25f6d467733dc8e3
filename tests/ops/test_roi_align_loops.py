"""RoIAlign's form for CPUs against the dense form and the float64 loop: RoIs of any size, gradients, batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mrcnn_jax.ops import roi_align
from mrcnn_jax.ops.roi_align import align_rois, align_rois_dense, assign_levels
from tests import oracles
from tests.ops.test_roi_align import CANVAS, STRIDES, levels_of, make_pyramid, make_rois, options

STATIC = ("strides", "output_size", "sampling_ratio", "aligned")
align = jax.jit(align_rois, static_argnames=STATIC)
dense = jax.jit(align_rois_dense, static_argnames=STATIC)
ALL_CELLS = jnp.asarray([[CANVAS[0] // stride, CANVAS[1] // stride] for stride in STRIDES], jnp.int32)
EXTENTS = jnp.asarray([[40, 53], [20, 27], [10, 14], [5, 7]], jnp.int32)

HEIGHT, WIDTH = CANVAS
SPECIAL = {
    "one huge among many small": [[0, 0, WIDTH, HEIGHT], *([x, 40, x + 9, 47] for x in range(0, 200, 20))],
    "all huge": [[-2 * i, -i, WIDTH + 2 * i, HEIGHT + i] for i in range(1, 6)],
    "thin and long": [[0, 50.3, WIDTH, 51.4], [100.2, 0, 101.7, HEIGHT], [-50, 90.3, 300, 91.2], [3.1, -40, 4, 250]],
    "zero area": [[10, 10, 10, 10], [5, 7, 100, 7], [50, 9, 50, 90], [0, 0, 0, 0]],
    "beyond the edges": [[-90, -80, -10, -20], [240, 180, 300, 260], [-300, 50, -200, 90], [1000, 1000, 1200, 1100]],
    "reversed": [[60, 50, 20, 90], [120, 110, 20, 10]],
}
ROIS = jnp.asarray(np.concatenate([make_rois(), *SPECIAL.values()]), jnp.float32)


@pytest.fixture(autouse=True)
def no_dense_form(monkeypatch):
    """Small maps would take the dense form, with which the loops are compared."""
    monkeypatch.setattr(roi_align, "GATHER_COST", 0)


@pytest.mark.parametrize("aligned", [True, False])
def test_adaptive_equals_loop(aligned):
    rois, pyramid = make_rois(), [np.asarray(f, np.float64) for f in make_pyramid()]
    levels = levels_of(rois)
    pooled = align(make_pyramid(), jnp.asarray(rois), jnp.asarray(levels), ALL_CELLS, **options(0, aligned))
    for roi, level, found in zip(rois, levels, pooled, strict=True):
        expected = oracles.roi_align(pyramid[level], roi, STRIDES[level], 7, 0, aligned)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("ratio", [0, 2])
def test_equals_dense(ratio):
    fitting = assign_levels(ROIS, 4)
    for levels in (fitting, jnp.zeros_like(fitting), jnp.full_like(fitting, 3)):  # of many samples on the finest
        for extents in (ALL_CELLS, EXTENTS):
            inputs = (make_pyramid(), ROIS, levels, extents)
            choices = options(ratio, True)
            np.testing.assert_allclose(align(*inputs, **choices), dense(*inputs, **choices), atol=2e-5)


def pool_with_gradient(form, features, rois, levels, ratio: int = 0, size: int = 3):
    """The pooled features and the features' gradients of half the sum of their squares."""
    choices = {"strides": (16, 32)[: len(features)], "output_size": size, "sampling_ratio": ratio, "aligned": True}
    pooled, pull_back = jax.vjp(lambda features: form(features, rois, levels, **choices), features)
    return pooled, pull_back(pooled)[0]


@pytest.mark.parametrize("ratio", [0, 2])
def test_gradients_equal_dense(ratio):
    inputs = (make_pyramid()[2:], ROIS, jnp.arange(len(ROIS)) % 2)
    ours, theirs = (
        jax.jit(functools.partial(pool_with_gradient, form, ratio=ratio))(*inputs)
        for form in (align_rois, align_rois_dense)
    )
    # Float32 sums of hundreds of terms in different orders.
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4), ours, theirs)


def test_gradients_of_gradients():
    features, levels = make_pyramid(2, channels=1)[3:], jnp.zeros(3, jnp.int32)
    choices = {"strides": (32,), "output_size": 2, "sampling_ratio": 0, "aligned": True}
    pool = jax.jit(lambda features: align_rois(features, ROIS[jnp.array([0, 9, 19])], levels, **choices))
    check_grads(pool, (features,), order=2, modes="rev", atol=1e-3, rtol=1e-3, eps=1.0)


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 20, 2), (20, 1, 2), (2, 2, 2)])
def test_maps_of_one_cell_or_row(shape):
    features = (jax.random.normal(jax.random.key(1), shape),)
    rois = 16 * jnp.array([[0.0, 0, 1, 1], [-3, -2, 30, 25], [0.3, 0.2, 0.9, 0.8]])
    ours, theirs = (
        jax.jit(functools.partial(pool_with_gradient, form))(features, rois, jnp.zeros(3, jnp.int32))
        for form in (align_rois, align_rois_dense)
    )
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), ours, theirs)


def test_vmap_equals_loop():
    rng = np.random.default_rng(0)
    pyramids = [make_pyramid(seed)[2:] for seed in (0, 1, 2)]
    # Corners and sides with which no sample's place is rounded, since compilers round in other places.
    corners, sides = 8.0 * rng.integers(0, 16, (3, 10, 2)), 48.0 * rng.integers(1, 3, (3, 10, 2))
    rois = jnp.asarray(np.concatenate([corners, corners + sides], axis=-1), jnp.float32)
    levels = jnp.asarray(rng.integers(0, 2, (3, 10)), jnp.int32)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pyramids)
    pool = functools.partial(pool_with_gradient, align_rois)
    one = jax.jit(pool)
    together = jax.jit(jax.vmap(pool))(stacked, rois, levels)
    of_one_pyramid = jax.jit(jax.vmap(pool, in_axes=(None, 0, 0)))(pyramids[0], rois, levels)
    for index in range(3):
        check_row(together, index, one(pyramids[index], rois[index], levels[index]))
        check_row(of_one_pyramid, index, one(pyramids[0], rois[index], levels[index]))


def check_row(batched, index: int, expected) -> None:
    jax.tree.map(lambda found, one: np.testing.assert_allclose(found[index], one, atol=1e-5), batched, expected)


def test_vmap_of_vmap():
    factors = jnp.arange(1.0, 5.0).reshape(2, 2)
    features = jax.tree.map(lambda leaf: factors[..., None, None, None] * leaf[None, None], make_pyramid()[3:])
    levels = jnp.zeros(len(ROIS), jnp.int32)
    choices = {"strides": (32,), "output_size": 2, "sampling_ratio": 2, "aligned": False}
    pooled = jax.jit(jax.vmap(jax.vmap(lambda f: align_rois(f, ROIS, levels, **choices))))(features)
    one = dense(make_pyramid()[3:], ROIS, levels, **choices)
    np.testing.assert_allclose(pooled, factors[..., None, None, None, None] * one[None, None], atol=1e-5)


def test_padding_does_not_matter():
    levels = assign_levels(ROIS, 4)
    is_image = [
        (jnp.arange(feature.shape[0]) < end[0])[:, None, None] & (jnp.arange(feature.shape[1]) < end[1])[None, :, None]
        for feature, end in zip(make_pyramid(), EXTENTS, strict=True)
    ]
    spoilt = tuple(jnp.where(keep, f, jnp.nan) for keep, f in zip(is_image, make_pyramid(), strict=True))
    expected = align(make_pyramid(), ROIS, levels, EXTENTS, **options(0, True))
    np.testing.assert_array_equal(align(spoilt, ROIS, levels, EXTENTS, **options(0, True)), expected)
    zeros = jnp.arange(len(ROIS)) % 3 == 0
    rois, levels = jnp.where(zeros[:, None], 0.0, ROIS), jnp.where(zeros, 0, levels)
    padded = align(make_pyramid(), rois, levels, EXTENTS, **options(0, True))
    np.testing.assert_array_equal(padded[~zeros], expected[~zeros])
    assert (padded[zeros] == 0).all()  # no area, no samples


def test_rois_that_are_not_numbers_harm_only_themselves():
    bad = jnp.asarray([[np.nan] * 4, [0, 0, np.nan, 9], [np.inf] * 4, [0, 0, np.inf, np.inf], [-np.inf, 0, np.inf, 9]])
    levels = assign_levels(ROIS, 4)
    expected = align(make_pyramid(), ROIS, levels, EXTENTS, **options(0, True))
    found = align(make_pyramid(), ROIS.at[:5].set(bad), levels, EXTENTS, **options(0, True))
    np.testing.assert_array_equal(found[5:], expected[5:])


def test_bfloat16():
    features = tuple(feature.astype(jnp.bfloat16) for feature in make_pyramid())
    levels = assign_levels(ROIS, 4)
    pooled = align(features, ROIS, levels, EXTENTS, **options(0, True))
    assert pooled.dtype == jnp.bfloat16
    exact = align(tuple(f.astype(jnp.float32) for f in features), ROIS, levels, EXTENTS, **options(0, True))
    np.testing.assert_array_equal(pooled, exact.astype(jnp.bfloat16))


def test_nothing_but_rois_is_kept_for_the_gradients():
    features = make_pyramid(channels=64)[2:]
    levels = jnp.arange(len(ROIS)) % 2
    program = jax.jit(functools.partial(pool_with_gradient, align_rois, size=7)).lower(features, ROIS, levels).compile()
    row = 7 * (features[0].shape[1] + features[1].shape[1]) * 64 * 4  # bytes of the scratch of one RoI, of both levels
    assert program.memory_analysis().temp_size_in_bytes < 3 * row  # far less than the gathered features
