"""RoIPool, RoIWarp and maxima against float64 loops, with their gradients, and by hand on a ramp."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.detection.pooling import pool_rois
from mrcnn_jax.ops import roi_align, roi_pool
from mrcnn_jax.ops.roi_pool import bin_borders, largest_samples, pool_whole_cells, quantise_rois
from tests import oracles
from tests.ops.test_roi_align import CANVAS, STRIDES, levels_of, make_pyramid, make_rois

SIZE = 5
IMAGE_HW = np.array([[192, 256]], np.int32)


def pooled_by(model_config: ModelConfig, pyramid, rois: np.ndarray, image_hw: np.ndarray = IMAGE_HW) -> jax.Array:
    features = tuple(jnp.asarray(level, jnp.float32)[None] for level in pyramid)
    return jitted_pool(model_config)(features, jnp.asarray(rois)[None], jnp.asarray(image_hw))


@functools.cache
def jitted_pool(model_config: ModelConfig):
    return jax.jit(
        lambda features, rois, hw: pool_rois(features, [rois], hw, output_sizes=[SIZE], model_config=model_config)[0]
    )


ORACLES = {
    ("align", "max"): lambda f, roi, s, _: oracles.roi_align_max(f, roi, s, SIZE, 2),
    ("warp", "max"): lambda f, roi, s, _: oracles.roi_warp(f, roi, s, SIZE, 2, "max"),
    ("warp", "average"): lambda f, roi, s, _: oracles.roi_warp(f, roi, s, SIZE, 2, "average"),
    ("pool", "max"): lambda f, roi, s, _: oracles.roi_pool(f, roi, s, SIZE, "max"),
    ("pool", "average"): lambda f, roi, s, _: oracles.roi_pool(f, roi, s, SIZE, "average"),
}


@pytest.mark.parametrize(("op", "reduce"), ORACLES)
def test_features_equal_loop(op: str, reduce: str) -> None:
    pyramid, rois = make_pyramid(), make_rois()
    found = pooled_by(ModelConfig(roi_op=op, roi_reduce=reduce), pyramid, rois)
    for roi, level, features in zip(rois, levels_of(rois), found, strict=True):
        expected = ORACLES[op, reduce](np.asarray(pyramid[level], np.float64), roi, STRIDES[level], None)
        np.testing.assert_allclose(features, expected, atol=1e-5, err_msg=str(roi))


@pytest.mark.parametrize("reduce", ["max", "average"])
def test_gradients_of_pool_equal_the_ones_written_by_hand(reduce: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi_pool, "BLOCK", 1)  # three blocks of one channel each
    jitted_pool.cache_clear()
    pyramid, rois = make_pyramid(), make_rois()
    config, rng = ModelConfig(roi_op="pool", roi_reduce=reduce), np.random.default_rng(5)
    upstream = rng.standard_normal((len(rois), SIZE, SIZE, 3))
    gradients = jax.jit(
        jax.grad(lambda features: jnp.sum(pooled_by(config, features, rois) * jnp.asarray(upstream, jnp.float32)))
    )(pyramid)
    expected = [np.zeros(level.shape) for level in pyramid]
    for roi, level, weights in zip(rois, levels_of(rois), upstream, strict=True):
        feature = np.asarray(pyramid[level], np.float64)
        expected[level] += oracles.roi_pool_gradient(feature, roi, STRIDES[level], SIZE, reduce, weights)
    for found, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    jitted_pool.cache_clear()


@pytest.mark.parametrize(("op", "reduce"), ORACLES)
def test_numerical_gradients(op: str, reduce: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # One level: the gradients of all levels are in the test above and in test_roi_align_loops.py.
    monkeypatch.setattr(roi_align, "GATHER_COST", 0)  # else so small a map takes the dense form
    config, rois = ModelConfig(neck="c4", roi_op=op, roi_reduce=reduce), make_rois()[:4]
    feature = make_pyramid()[STRIDES.index(16)]
    check_grads(lambda f: pooled_by(config, [f], rois), (feature,), order=1, modes=["rev"], eps=1e-4, rtol=2e-2)


def test_pool_by_hand() -> None:
    # Columns 0..5 of a ramp, pixels 4 to 20 at stride 4: cells 1..5, halves 1..3 and 3..5, the middle one in both.
    ramp = jnp.arange(6, dtype=jnp.float32)[None, :, None] * jnp.ones((6, 1, 1))
    roi = jnp.array([[4.0, 4.0, 20.0, 20.0]])
    one, extents = jnp.zeros(1, jnp.int32), jnp.array([[6, 6]])
    pool = functools.partial(pool_whole_cells, (ramp,), roi, one, extents, strides=(4,), output_size=2)
    pool = jax.jit(pool, static_argnames="reduce")
    np.testing.assert_array_equal(pool(reduce="max")[0, 0, :, 0], [3, 5])
    np.testing.assert_array_equal(pool(reduce="average")[0, 0, :, 0], [2, 4])
    np.testing.assert_array_equal(quantise_rois(roi, jnp.zeros(1, jnp.int32), (4,)), [[4, 4, 24, 24]])
    start, stop = bin_borders(one + 1, one + 5, 2, one + 6)
    np.testing.assert_array_equal(np.stack([start[0], stop[0]]), [[1, 3], [4, 6]])
    samples = jnp.arange(16, dtype=jnp.float32).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(largest_samples(samples, 2)[0, :, :, 0], [[5, 7], [13, 15]])


@pytest.mark.parametrize("op", ["pool", "warp"])
def test_a_smaller_image_ends_at_its_extent(op: str) -> None:
    # The upper left 96 x 128 of the canvas, alone on it and with other values around it.
    config, rois = ModelConfig(roi_op=op, roi_reduce="max"), make_rois()[:12]
    small = [level[: 96 // s, : 128 // s] for level, s in zip(make_pyramid(), STRIDES, strict=True)]
    found = pooled_by(config, make_pyramid(), rois, np.array([[96, 128]], np.int32))
    np.testing.assert_array_equal(found, pooled_by(config, small, rois, np.array([[96, 128]], np.int32)))
    assert CANVAS == (192, 256)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="sampling_ratio"):
        ModelConfig(roi_reduce="max", sampling_ratio=0)
    with pytest.raises(ValueError, match="agnostic"):
        ModelConfig(mask_activation="softmax", class_agnostic_masks=True)
