"""Every form of a convolution makes the same values and gradients as the one definition, which is a loop's."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mrcnn_jax.models import convolution
from mrcnn_jax.models.convolution import (
    ConvWindow,
    add_bias,
    choose_part,
    convolve,
    convolve_library,
    count_merged,
    count_strips,
    differentiate_kernel,
    largest_divisor,
)
from tests import oracles


def random_maps(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(0.5, 2.0, shape), jnp.float32)


def check_tpu_form(monkeypatch: pytest.MonkeyPatch, x: jax.Array, kernel: jax.Array, **settings: int) -> int:
    """Compares the TPU's form with the default, values and gradients; returns how often it was taken, 0 or 2 times."""

    def total(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = convolve(x, kernel, **settings)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    run = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    whole = run(x, kernel)
    taken = []

    def as_on_tpu(
        *args: jax.Array, cpu: object = None, default: Callable, tpu: Callable | None = None
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        taken.extend([tpu] if tpu else [])
        return (tpu or default)(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", as_on_tpu)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4), run(x, kernel), whole)
    return len(taken)


@pytest.mark.parametrize(
    ("batch", "height", "dilation", "strips"), [(4, 8, 1, 2), (1, 12, 2, 6), (3, 8, 1, 2), (2, 7, 1, 1)]
)
def test_strips_of_rows_make_the_same_convolution(monkeypatch, batch, height, dilation, strips):
    assert count_strips(batch, height) == strips
    x, kernel = random_maps(batch, height, 5, 3), random_maps(3, 3, 3, 4, seed=2)
    assert check_tpu_form(monkeypatch, x, kernel, stride=1, dilation=dilation, groups=1) == 2 * (strips > 1)


def test_only_small_batches_are_cut_into_strips():
    assert [count_strips(batch, 200) for batch in (0, 1, 2, 3, 4, 5, 8, 512)] == [8, 8, 4, 2, 2, 1, 1, 1]
    assert count_strips(4, 25) == 1


def test_groups_equal_a_loop_over_them():
    x, kernel = random_maps(1, 6, 8, 12), random_maps(3, 3, 3, 8, seed=2)
    out = convolve(x, kernel, stride=1, dilation=1, groups=4)
    for group in range(4):
        own = oracles.conv2d(x[0, ..., 3 * group :][..., :3], np.asarray(kernel[..., 2 * group :][..., :2]), 1)
        np.testing.assert_allclose(out[0, ..., 2 * group :][..., :2], own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("groups", "depth", "features", "stride", "dilation"),
    [(32, 4, 128, 1, 1), (8, 32, 256, 2, 1), (6, 50, 12, 1, 2), (4, 96, 4, 1, 1), (2, 200, 2, 1, 1)],
)
def test_merged_groups_make_the_same_convolution(monkeypatch, groups, depth, features, stride, dilation):
    x, kernel = random_maps(1, 4, 6, groups * depth), random_maps(3, 3, depth, features, seed=2)
    taken = check_tpu_form(monkeypatch, x, kernel, stride=stride, dilation=dilation, groups=groups)
    assert taken == 2 * (count_merged(groups, depth) > 1)


def test_groups_are_merged_up_to_128_channels():
    # ResNeXt-101's stages, 32 x 8d and 64 x 4d; then what no number of groups fills, and what is full.
    assert [count_merged(32, depth) for depth in (8, 16, 32, 64)] == [16, 8, 4, 2]
    assert [count_merged(64, depth) for depth in (4, 8, 16, 32)] == [32, 16, 8, 4]
    assert [count_merged(*case) for case in ((6, 50), (5, 30), (4, 128), (2, 200), (1, 4))] == [2, 1, 1, 1, 1]


CPU_CASES = {  # batch, height, width, D, F, size, stride, dilation, groups
    "3x3": (2, 9, 7, 4, 6, 3, 1, 1, 1),
    "1x1": (2, 6, 8, 4, 6, 1, 1, 1, 1),
    "1x1 strided": (2, 7, 8, 4, 6, 1, 2, 1, 1),
    "3x3 strided": (2, 8, 6, 4, 6, 3, 2, 1, 1),
    "3x3 strided, odd sides": (1, 9, 7, 4, 6, 3, 2, 1, 1),
    "3x3 of stride 3": (1, 10, 9, 3, 2, 3, 3, 1, 1),
    "3x3 dilated": (2, 9, 8, 4, 6, 3, 1, 2, 1),
    "3x3 dilated and strided": (1, 9, 8, 4, 6, 3, 2, 2, 1),
    "3x3 in groups": (2, 6, 8, 8, 12, 3, 1, 1, 4),
    "3x3 in groups, strided": (2, 6, 8, 8, 12, 3, 2, 1, 4),
    "7x7 strided": (1, 16, 12, 3, 4, 7, 2, 1, 1),
    "strips of rows": (2, 24, 40, 3, 2, 3, 1, 1, 1),
    "strips of rows, strided": (1, 48, 80, 3, 2, 3, 2, 1, 1),
    "parts of the batch": (12, 10, 11, 3, 2, 3, 1, 1, 1),
    "a row longer than a part": (1, 2, 700, 2, 2, 3, 1, 1, 1),
    "one cell": (1, 1, 1, 2, 3, 3, 1, 1, 1),
}


def cpu_case(name: str) -> tuple[jax.Array, jax.Array, ConvWindow]:
    batch, height, width, depth, features, size, stride, dilation, groups = CPU_CASES[name]
    x = random_maps(batch, height, width, depth)
    kernel = random_maps(size, size, depth // groups, features, seed=2)
    return x, kernel, ConvWindow(size, stride, dilation, groups)


@pytest.mark.parametrize("part_values", [100, 2**17])
@pytest.mark.parametrize("name", CPU_CASES)
def test_gradients_on_a_cpu_equal_the_library_s(monkeypatch, name, part_values):
    monkeypatch.setattr(convolution, "PART_VALUES", part_values)
    monkeypatch.setattr(convolution, "PART_ROWS", part_values)
    x, kernel, window = cpu_case(name)
    ours = partial(convolve, stride=window.stride, dilation=window.dilation, groups=window.groups)
    values, differentiate = jax.vjp(ours, x, kernel)
    expected, differentiate_library = jax.vjp(partial(convolve_library, window=window), x, kernel)
    np.testing.assert_array_equal(values, expected)
    gradient = random_maps(*values.shape, seed=3)
    for mine, theirs in zip(differentiate(gradient), differentiate_library(gradient), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["3x3 strided, odd sides", "3x3 dilated", "3x3 in groups, strided", "1x1 strided"])
def test_gradients_on_a_cpu_equal_finite_differences(name):
    x, kernel, window = cpu_case(name)
    ours = partial(convolve, stride=window.stride, dilation=window.dilation, groups=window.groups)
    check_grads(ours, (x, kernel), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("x", "gradient", "part"),
    [
        ((96, 14, 14, 64), (96, 14, 14, 64), (2, 14)),  # of 12,544 values each
        ((2, 64, 64, 256), (2, 64, 64, 256), (1, 8)),
        ((2, 512, 512, 3), (2, 256, 256, 64), (1, 8)),  # what comes out is larger
        ((24, 14, 14, 64), (24, 14, 14, 64), (24, 14)),  # less than three parts
        ((1, 2, 3000, 256), (1, 2, 3000, 256), (1, 1)),  # a row is more than a part
    ],
)
def test_parts_stay_in_the_cache(x, gradient, part):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x, gradient)]
    assert choose_part(*shapes) == part


def test_kernel_gradients_of_bfloat16_add_up_in_float32():
    x, gradient = (jnp.ones((1, 64, 64, 1), jnp.bfloat16) for _ in range(2))
    total = differentiate_kernel(x, gradient, ConvWindow(3, 1, 1, 1))
    assert total.dtype == jnp.float32 and float(total[1, 1, 0, 0]) == 64 * 64


def test_a_frozen_kernel_s_gradient_is_not_computed(monkeypatch):
    """It would be a third convolution, here in a loop over parts."""
    x, kernel, _ = cpu_case("3x3")
    monkeypatch.setattr(convolution, "PART_VALUES", 8)

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(convolve(x, kernel, stride=1, dilation=1, groups=1)))

    def compiled(argnums: int) -> str:
        return jax.jit(jax.grad(loss, argnums=argnums)).lower(x, kernel).compile().as_text()

    assert compiled(0).count(" convolution(") == 2 and " while(" not in compiled(0)
    assert " while(" in compiled(1)


def test_bias_gradient_is_the_sum_over_all_cells():
    x, bias = random_maps(2, 3, 4, 5), random_maps(5, seed=2)
    values, differentiate = jax.vjp(add_bias, x, bias)
    np.testing.assert_array_equal(values, np.asarray(x) + np.asarray(bias))
    gradient = random_maps(2, 3, 4, 5, seed=3)
    of_x, of_bias = differentiate(gradient)
    np.testing.assert_array_equal(of_x, gradient)
    np.testing.assert_allclose(of_bias, np.asarray(gradient, np.float64).sum(axis=(0, 1, 2)), rtol=1e-5)


def test_largest_divisor():
    assert [largest_divisor(*case) for case in ((12, 5), (12, 100), (7, 6), (5, 0), (1, 1))] == [4, 12, 1, 1, 1]
