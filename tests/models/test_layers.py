"""Convolution and normalisation against NumPy, and the mask that keeps padding out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mrcnn_jax.mesh import DATA_AXIS, make_mesh
from mrcnn_jax.models.layers import (
    Conv,
    FrozenBatchNorm,
    GroupNorm,
    SyncBatchNorm,
    make_extent,
    per_channel,
    relu,
    zero_outside,
)
from tests import oracles

EPS = 1e-5


def random_maps(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(0.5, 2.0, shape), jnp.float32)


def channels_like(variables: dict, seed: int = 1) -> dict:
    """Random positive values in place of every leaf."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 2, leaf.shape), jnp.float32), variables)


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_conv_equals_loop(kernel_size, stride):
    x = random_maps(1, 8, 10, 3)
    conv = Conv(5, kernel_size, stride)
    kernel, bias = random_maps(kernel_size, kernel_size, 3, 5, seed=2), random_maps(5, seed=3)
    out = conv.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = oracles.conv2d(x[0], np.asarray(kernel), stride) + np.asarray(bias)
    assert out.shape == (1, 8 // stride, 10 // stride, 5)
    np.testing.assert_allclose(out[0], expected, rtol=1e-4, atol=1e-4)
    bare = Conv(5, kernel_size, stride, use_bias=False).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(bare[0], expected - np.asarray(bias), rtol=1e-4, atol=1e-4)


def test_conv_computes_in_its_dtype_and_keeps_float32_parameters():
    conv = Conv(4, 3, dtype=jnp.bfloat16)
    variables = jax.eval_shape(conv.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out = jax.eval_shape(conv.apply, variables, jnp.zeros((1, 4, 4, 3)))
    assert out.dtype == jnp.bfloat16


def test_extent_golden():
    # An image of 33 x 60 pixels has the extent 64 x 64 (multiples of 32) on its canvas of 96 x 96.
    image_hw = jnp.array([[33, 60], [0, 0], [96, 96]])
    for stride, cells in ((4, 16), (32, 2), (64, 1)):
        side = -(-96 // stride)
        extent = np.asarray(make_extent(image_hw, (side, side), stride, 32))[..., 0]
        expected = np.zeros((side, side), bool)
        expected[:cells, :cells] = True
        np.testing.assert_array_equal(extent[0], expected)
        assert not extent[1].any() and extent[2].all()
    # 96 pixels are one and a half cells of stride 64: two cells, as the map of a canvas of 96 has.
    np.testing.assert_array_equal(make_extent(image_hw[2:], (3, 3), 64, 32)[0, :, 0, 0], [True, True, False])


def test_zero_outside_removes_whatever_was_there():
    x = jnp.array([1.0, jnp.nan, jnp.inf]).reshape(1, 1, 3, 1)
    extent = jnp.array([True, False, False]).reshape(1, 1, 3, 1)
    np.testing.assert_array_equal(zero_outside(x, extent).ravel(), [1, 0, 0])
    gradient = jax.grad(lambda v: zero_outside(v * v, extent).sum())(x)
    np.testing.assert_array_equal(gradient.ravel()[0], 2)


def test_relu_and_its_gradient():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0])
    np.testing.assert_array_equal(relu(x), np.float32([0, 0, 0, 1e-30, 3]))
    np.testing.assert_array_equal(jax.vmap(jax.grad(relu))(x), [0, 0, 0, 1, 1])
    assert jnp.isnan(relu(jnp.nan)) and jnp.isnan(jax.jit(relu)(jnp.nan))
    assert jax.grad(lambda x: relu(x).astype(jnp.float32).sum())(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(("kernel_size", "groups"), [(1, 1), (3, 1), (3, 2)])
def test_a_frozen_norm_goes_into_the_convolution(kernel_size, groups):
    x, (scale, shift) = random_maps(2, 3, 4, 6), np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    conv = Conv(8, kernel_size, groups=groups, use_bias=False)
    variables = conv.init(jax.random.key(0), x)

    def of_result(variables, x):
        return conv.apply(variables, x) * per_channel(scale) + per_channel(shift)

    def in_kernel(variables, x):
        return conv.apply(variables, x, scale, shift)

    np.testing.assert_allclose(in_kernel(variables, x), of_result(variables, x), rtol=1e-5, atol=1e-5)
    gradients = [jax.grad(lambda *of, f=f: jnp.sum(f(*of) ** 2), (0, 1))(variables, x) for f in (in_kernel, of_result)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *gradients)


def test_frozen_batch_norm_formula():
    x, norm = random_maps(2, 3, 4, 5), FrozenBatchNorm(EPS)
    variables = channels_like(norm.init(jax.random.key(0), 5))
    assert set(variables) == {"frozen"}  # nothing to train
    c = {name: np.asarray(leaf, np.float64) for name, leaf in variables["frozen"].items()}
    expected = (np.asarray(x, np.float64) - c["mean"]) / np.sqrt(c["var"] + EPS) * c["scale"] + c["bias"]
    scale, shift = norm.apply(variables, 5)
    np.testing.assert_allclose(x * per_channel(scale) + per_channel(shift), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "num_groups"), [(8, 4), (8, 32)])
def test_group_norm_formula_over_the_extent_only(channels, num_groups):
    x, norm = random_maps(2, 4, 6, channels), GroupNorm(EPS, num_groups)
    extent = jnp.zeros((2, 4, 6, 1), bool).at[0, :3, :4].set(True).at[1].set(True)
    variables = channels_like(norm.init(jax.random.key(0), x))
    garbled = jnp.where(extent, x, jnp.nan)
    out = norm.apply(variables, garbled, extent)
    scale, bias = (np.asarray(variables["params"][name], np.float64) for name in ("scale", "bias"))
    for image, (rows, columns) in enumerate([(3, 4), (4, 6)]):
        cells = np.asarray(x, np.float64)[image, :rows, :columns]
        per_group = channels // min(num_groups, channels)
        for channel in range(channels):
            first = channel // per_group * per_group
            group = cells[:, :, first : first + per_group]
            expected = (cells[:, :, channel] - group.mean()) / np.sqrt(group.var() + EPS)
            expected = expected * scale[channel] + bias[channel]
            np.testing.assert_allclose(out[image, :rows, :columns, channel], expected, rtol=1e-4, atol=1e-5)
    whole = norm.apply(variables, x)  # without an extent: all cells
    np.testing.assert_allclose(whole[1], out[1], rtol=1e-6, atol=1e-6)


def test_group_norm_of_an_empty_image_is_finite():
    norm, x, nothing = GroupNorm(EPS), random_maps(1, 2, 2, 8), jnp.zeros((1, 2, 2, 1), bool)
    variables = norm.init(jax.random.key(0), x)
    assert np.isfinite(norm.apply(variables, x, nothing)).all()
    gradient = jax.grad(lambda v: zero_outside(norm.apply(variables, v, nothing), nothing).sum())(x)
    assert not np.asarray(gradient).any()


def test_group_norm_of_values_far_from_zero():
    # Mean 50, deviation 1: the variance is a difference of squares, 2500 times smaller than they are.
    norm, x = GroupNorm(EPS, 2), random_maps(1, 16, 16, 8) / 2 + 50
    cells = np.asarray(x, np.float64).reshape(256, 2, 4)
    expected = (cells - cells.mean(axis=(0, 2), keepdims=True)) / cells.std(axis=(0, 2), keepdims=True)
    out = norm.apply(norm.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(out.reshape(256, 2, 4), expected, atol=2e-3)


def sync_case():
    # Eight images with extents of different size, one of them empty; NaN in the padding.
    x = random_maps(8, 4, 4, 3)
    rows = jnp.array([4, 3, 2, 1, 4, 0, 2, 4])
    extent = jnp.broadcast_to((jnp.arange(4)[None, :] < rows[:, None])[:, :, None, None], (8, 4, 4, 1))
    norm = SyncBatchNorm(EPS, train=True, axis_name=None)
    variables = channels_like(norm.init(jax.random.key(0), x, extent))
    return norm, variables, jnp.where(extent, x, jnp.nan), extent


def test_sync_batch_norm_statistics():
    norm, variables, x, extent = sync_case()
    out, updates = norm.apply(variables, x, extent, mutable=["batch_stats"])
    inside = np.asarray(extent)[..., 0]
    cells = np.asarray(x, np.float64)[inside]  # [valid cells, channels]
    scale, bias = (np.asarray(variables["params"][name], np.float64) for name in ("scale", "bias"))
    expected = (cells - cells.mean(axis=0)) / np.sqrt(cells.var(axis=0) + EPS) * scale + bias
    np.testing.assert_allclose(np.asarray(out)[inside], expected, rtol=1e-4, atol=1e-5)
    old, new = variables["batch_stats"], updates["batch_stats"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * cells.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * cells.var(axis=0, ddof=1), rtol=1e-5)


def test_sync_batch_norm_at_test_time_uses_the_running_statistics():
    norm, variables, x, extent = sync_case()
    x = jnp.nan_to_num(x)
    out = norm.clone(train=False).apply(variables, x, extent)
    mean, var = (np.asarray(variables["batch_stats"][name], np.float64) for name in ("mean", "var"))
    scale, bias = (np.asarray(variables["params"][name], np.float64) for name in ("scale", "bias"))
    np.testing.assert_allclose(
        out, (np.asarray(x, np.float64) - mean) / np.sqrt(var + EPS) * scale + bias, rtol=1e-5, atol=1e-5
    )


def test_sync_batch_norm_over_eight_devices_equals_one():
    norm, variables, x, extent = sync_case()
    weights = random_maps(8, 4, 4, 3, seed=7)

    def loss(params, x, extent, weights, norm):
        variables_ = {**variables, "params": params}
        out, updates = norm.apply(variables_, x, extent, mutable=["batch_stats"])
        return jnp.sum(zero_outside(jnp.sin(out), extent) * weights), updates

    def per_device(params, x, extent, weights):
        sharded = norm.clone(axis_name=DATA_AXIS)
        gradients, updates = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x, extent, weights, sharded)
        return (jax.lax.psum(gradients[0], DATA_AXIS), gradients[1]), updates

    split, whole = PartitionSpec(DATA_AXIS), PartitionSpec()
    mapped = jax.shard_map(
        per_device,
        mesh=make_mesh(),
        in_specs=(whole, split, split, split),
        out_specs=((whole, split), whole),
        check_vma=False,
    )
    (params, inputs), updates = jax.jit(mapped)(variables["params"], x, extent, weights)
    expected, expected_updates = jax.grad(loss, argnums=(0, 1), has_aux=True)(
        variables["params"], x, extent, weights, norm
    )
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(compare, params, expected[0])
    jax.tree.map(compare, updates, expected_updates)
    inside = np.broadcast_to(np.asarray(extent), x.shape)
    compare(np.asarray(inputs)[inside], np.asarray(expected[1])[inside])
