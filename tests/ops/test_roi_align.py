"""RoIAlign in both forms against a float64 loop over samples, and its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mrcnn_jax.ops import roi_align
from mrcnn_jax.ops.roi_align import align_rois, align_rois_dense, assign_levels
from tests import oracles

STRIDES = (4, 8, 16, 32)
CANVAS = (192, 256)
STATIC = ("strides", "output_size", "sampling_ratio", "aligned")
jitted_align = jax.jit(align_rois, static_argnames=STATIC)
jitted_dense = jax.jit(align_rois_dense, static_argnames=STATIC)


@pytest.fixture(params=["cpu", "default"])
def gather_only(monkeypatch, request):
    """Makes `align_rois` gather on small maps, too, in the form for CPUs and in the one for accelerators."""
    monkeypatch.setattr(roi_align, "GATHER_COST", 0)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *inputs, **forms: forms[request.param](*inputs))
    jitted_align.clear_cache()
    yield
    jitted_align.clear_cache()


def make_pyramid(seed: int = 0, channels: int = 3) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(seed)
    shapes = [(CANVAS[0] // s, CANVAS[1] // s, channels) for s in STRIDES]
    return tuple(jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32) for shape in shapes)


def make_rois() -> np.ndarray:
    rng = np.random.default_rng(1)
    corners, sides = rng.uniform(0, 150, (14, 2)), rng.uniform(4, 120, (14, 2))
    inside = np.concatenate([corners, corners + sides], axis=1)
    special = [
        [0, 0, 256, 192],  # the canvas
        [-40, -30, 60, 50],  # partly outside, on every side
        [200, 150, 290, 230],
        [-300, -300, -200, -250],  # wholly outside
        [1000, 40, 1100, 80],
        [10.3, 20.7, 10.9, 21.1],  # tiny
        [50, 60, 50, 60],  # empty
        [3.3, 100.1, 250.2, 101.4],  # elongated
        [90.4, 1.2, 92.1, 188.3],
        [8, 16, 120, 128],  # sides of exactly 112: a border between levels
        [5, 3, 229, 227],
    ]  # no sample lies on the line where outside begins, -1 or the map's length: there rounding decides
    return np.concatenate([inside, special]).astype(np.float32)


def levels_of(rois: np.ndarray) -> np.ndarray:
    return np.array([oracles.pyramid_level(roi) for roi in rois], np.int32)


@functools.cache
def expected_features(ratio: int, aligned: bool) -> np.ndarray:
    pyramid, rois = [np.asarray(f, np.float64) for f in make_pyramid()], make_rois()
    rows = zip(rois, levels_of(rois), strict=True)
    return np.stack([oracles.roi_align(pyramid[l], roi, STRIDES[l], 7, ratio, aligned) for roi, l in rows])  # noqa: E741


def options(ratio: int, aligned: bool, output_size: int = 7) -> dict:
    return {"strides": STRIDES, "output_size": output_size, "sampling_ratio": ratio, "aligned": aligned}


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_gather_equals_loop(gather_only, ratio, aligned):
    rois = make_rois()
    pooled = jitted_align(make_pyramid(), jnp.asarray(rois), jnp.asarray(levels_of(rois)), **options(ratio, aligned))
    assert np.abs(pooled - expected_features(ratio, aligned)).max() <= 1e-5


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [1, 2, 3, 0])
def test_dense_equals_loop(ratio, aligned):
    rois = make_rois()
    pooled = jitted_dense(make_pyramid(), jnp.asarray(rois), jnp.asarray(levels_of(rois)), **options(ratio, aligned))
    assert np.abs(pooled - expected_features(ratio, aligned)).max() <= 1e-5


def test_golden_ramp():
    # On a 5 x 5 ramp f(y, x) = 10 y + x, whose cells have their centres at +0.5, bins average to their centres.
    #      0    1    2    3    4     one RoI from (1, 1) to (3, 5) as (x, y): two columns of width 1,
    #     10   11   12   13   14     two rows of height 2
    ramp = (jnp.arange(5.0)[:, None] * 10 + jnp.arange(5.0)[None, :])[..., None]
    roi, level = jnp.array([[1.0, 1.0, 3.0, 5.0]]), jnp.zeros(1, jnp.int32)
    for ratio in (1, 2, 0):
        for align in (jitted_align, jitted_dense) if ratio == 2 else (jitted_align,):
            pooled = align((ramp,), roi, level, strides=(1,), output_size=2, sampling_ratio=ratio, aligned=True)
            np.testing.assert_allclose(pooled[0, :, :, 0], [[15 + 1, 15 + 2], [35 + 1, 35 + 2]], atol=1e-5)
            pooled = align((ramp,), roi, level, strides=(1,), output_size=2, sampling_ratio=ratio, aligned=False)
            # Without the shift of half a cell. Of two rows of samples the last one, 4.5, is clamped to the border.
            below = 40 if ratio == 1 else 37.5
            np.testing.assert_allclose(
                pooled[0, :, :, 0], [[20 + 1.5, 20 + 2.5], [below + 1.5, below + 2.5]], atol=1e-5
            )


def test_levels_golden():
    # FPN, equation 1: 224 goes to P4, level 2 counted from P2; the borders belong to the coarser level.
    sides = [1, 111.9, 112, 223.9, 224, 447.9, 448, 900, 4000]
    rois = jnp.array([[5, 5, 5 + side, 5 + side] for side in sides], jnp.float32)
    np.testing.assert_array_equal(assign_levels(rois, 4), [0, 0, 1, 1, 2, 2, 3, 3, 3])
    elongated = jnp.array([[0, 0, 56, 224], [0, 0, 448, 112], [0, 0, 1000, 1]], jnp.float32)
    np.testing.assert_array_equal(assign_levels(elongated, 4), [1, 2, 0])
    np.testing.assert_array_equal(assign_levels(jnp.zeros((1, 4)), 4), [0])
    np.testing.assert_array_equal(assign_levels(rois, 2), [0, 0, 1, 1, 1, 1, 1, 1, 1])


def test_levels_equal_loop():
    rng = np.random.default_rng(5)
    rois = np.concatenate([np.zeros((500, 2)), rng.uniform(1, 1300, (500, 2))], axis=1).astype(np.float32)
    np.testing.assert_array_equal(assign_levels(jnp.asarray(rois), 4), levels_of(rois))


@pytest.mark.parametrize("align", [align_rois, align_rois_dense])
def test_gradients(gather_only, align):
    rois = jnp.asarray(make_rois()[[0, 3, 9, 15, 19]])
    levels, features = jnp.asarray([0, 1, 1, 0, 0]), make_pyramid(2, channels=1)[2:]
    choices = {"strides": (16, 32), "output_size": 3, "sampling_ratio": 2, "aligned": True}
    pool = jax.jit(lambda features, rois: align(features, rois, levels, **choices))
    # Linear in the features, so a step of 1 is exact.
    check_grads(lambda f: pool(f, rois), (features,), order=2, modes="rev", atol=1e-3, rtol=1e-3, eps=1.0)
    gradient = jax.jit(jax.grad(lambda r: pool(features, r).sum()))(rois)
    np.testing.assert_array_equal(gradient, np.zeros_like(rois))


def test_gradient_of_a_roi_outside_is_zero(gather_only):
    features, levels = make_pyramid()[2:], jnp.zeros(1, jnp.int32)
    choices = options(2, True) | {"strides": STRIDES[2:]}
    far = jnp.array([[-300.0, -300.0, -200.0, -250.0]])
    gradient = jax.jit(jax.grad(lambda f: align_rois(f, far, levels, **choices).sum()))(features)
    assert all((leaf == 0).all() for leaf in gradient)


def test_bfloat16_gradients_add_up_in_float32(gather_only):
    # Six hundred RoIs on one place: bfloat16 would stop counting at 256.
    features = (make_pyramid(3, channels=1)[0].astype(jnp.bfloat16),)
    choices = options(2, True) | {"strides": STRIDES[:1]}
    rois = jnp.tile(jnp.array([[40.0, 40.0, 68.0, 68.0]]), (600, 1))
    levels = jnp.zeros(600, jnp.int32)

    def total(features):
        return align_rois(features, rois, levels, **choices).astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(total))(features)[0]
    exact = jax.jit(jax.grad(total))(tuple(f.astype(jnp.float32) for f in features))[0]
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32), exact, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sets_together_equal_each_alone(gather_only, dtype):
    """Values, and gradients, which add up over the sets; in bfloat16 they are rounded once and not once for each."""
    features = tuple(f.astype(dtype) for f in make_pyramid(4, channels=2)[2:])
    rois = jnp.asarray(make_rois())
    levels = jnp.arange(len(rois)) % 2
    choices = {"strides": STRIDES[2:], "sampling_ratio": 1, "aligned": True}
    rng = np.random.default_rng(0)
    sizes = (3, 5)
    weights = [jnp.asarray(rng.uniform(0.5, 1, (n, s, s, 2)), jnp.float32) for n, s in zip((25, 9), sizes, strict=True)]

    def together(features):
        sets = [rois, rois[:9]], [levels, levels[:9]]
        return roi_align.align_sets(features, *sets, output_sizes=sizes, **choices)

    def alone(features):
        pool = functools.partial(align_rois, features, **choices)
        return [pool(rois, levels, output_size=3), pool(rois[:9], levels[:9], output_size=5)]

    def total(pool, features):
        pooled = pool(features)
        return sum((x.astype(jnp.float32) * w).sum() for x, w in zip(pooled, weights, strict=True)), pooled

    (gradients, pooled), (expected_gradients, expected_pooled) = (
        jax.jit(jax.grad(functools.partial(total, pool), has_aux=True))(features) for pool in (together, alone)
    )
    for mine, expected in zip(pooled, expected_pooled, strict=True):
        np.testing.assert_array_equal(mine, expected)
    for mine, expected in zip(gradients, expected_gradients, strict=True):
        assert mine.dtype == dtype
        mine, expected = (np.asarray(x, np.float32) for x in (mine, expected))
        np.testing.assert_allclose(mine, expected, rtol=1e-5 if dtype == "float32" else 2**-6, atol=1e-5)


def test_vmap_equals_loop_and_jit_equals_eager(gather_only):
    pyramids = [make_pyramid(seed)[2:] for seed in (0, 1)]
    # Corners and sides with which no sample's place is rounded, since compilers round in other places.
    corners, sides = np.split(make_rois()[:20], 2, axis=1)
    corners, sides = 8 * np.round(corners / 8), 56 * np.ceil((sides - corners) / 56)
    rois = jnp.asarray(np.concatenate([corners, corners + sides], axis=1)).reshape(2, 10, 4)
    levels = jnp.arange(20).reshape(2, 10) % 2
    choices = options(2, True) | {"strides": STRIDES[2:]}
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pyramids)
    together = jax.jit(jax.vmap(functools.partial(align_rois, **choices)))(stacked, rois, levels)
    for index, pyramid in enumerate(pyramids):
        eager = align_rois(pyramid, rois[index], levels[index], **choices)
        np.testing.assert_allclose(together[index], eager, atol=1e-6)


def test_many_rois_are_pooled_in_chunks(gather_only):
    # More than one chunk of the CPU's form, and not a multiple of it.
    rois = jnp.tile(jnp.asarray(make_rois()), (6, 1))
    levels = jnp.tile(jnp.arange(25) % 2, 6)
    pooled = jitted_align(make_pyramid()[2:], rois, levels, **options(1, True) | {"strides": STRIDES[2:]})
    np.testing.assert_array_equal(pooled[25:50], pooled[:25])
    np.testing.assert_array_equal(pooled[125:], pooled[:25])
