"""Nearest-neighbour upsampling of the feature pyramid, in the form for each platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.models.fpn import upsample_nearest


@pytest.mark.parametrize("platform", ["tpu", "default"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_cell_becomes_four_and_gradients_add_up(platform, dtype, monkeypatch):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *inputs, **forms: forms[platform](*inputs))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5, 4)), dtype)
    doubled, pull_back = jax.vjp(upsample_nearest, x)
    np.testing.assert_array_equal(doubled, np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))
    (gradient,) = pull_back(jnp.ones_like(doubled))
    np.testing.assert_array_equal(gradient, np.full(x.shape, 4.0))
