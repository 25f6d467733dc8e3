"""The forms that a TPU runs make the same convolutions and gradients as the one definition, which is a loop's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.models.convolution import convolve, count_merged, count_strips
from tests import oracles


def random_maps(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(0.5, 2.0, shape), jnp.float32)


def check_tpu_form(monkeypatch: pytest.MonkeyPatch, x: jax.Array, kernel: jax.Array, **settings: int) -> int:
    """Compares the TPU's form with the default, values and gradients; returns how often it was chosen."""

    def total(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = convolve(x, kernel, **settings)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    run = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    whole = run(x, kernel)
    taken = []
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, tpu, default: taken.append(tpu) or tpu(*args))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4), run(x, kernel), whole)
    return len(taken)


@pytest.mark.parametrize(
    ("batch", "height", "dilation", "strips"), [(4, 8, 1, 2), (1, 12, 2, 6), (3, 8, 1, 2), (2, 7, 1, 1)]
)
def test_strips_of_rows_make_the_same_convolution(monkeypatch, batch, height, dilation, strips):
    assert count_strips(batch, height) == strips
    x, kernel = random_maps(batch, height, 5, 3), random_maps(3, 3, 3, 4, seed=2)
    assert check_tpu_form(monkeypatch, x, kernel, stride=1, dilation=dilation, groups=1) == (strips > 1)


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
    assert taken == (count_merged(groups, depth) > 1)


def test_groups_are_merged_up_to_128_channels():
    # ResNeXt-101's stages, 32 x 8d and 64 x 4d; then what no number of groups fills, and what is full.
    assert [count_merged(32, depth) for depth in (8, 16, 32, 64)] == [16, 8, 4, 2]
    assert [count_merged(64, depth) for depth in (4, 8, 16, 32)] == [32, 16, 8, 4]
    assert [count_merged(*case) for case in ((6, 50), (5, 30), (4, 128), (2, 200), (1, 4))] == [2, 1, 1, 1, 1]
