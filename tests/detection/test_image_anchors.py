"""Anchors of one image on its canvas: all levels, and valid only inside the image's own extent."""

import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.detection.image_anchors import make_anchors

CONFIG = ModelConfig()
jitted_anchors = jax.jit(make_anchors, static_argnums=(0, 2))


def test_levels_golden():
    levels = jitted_anchors((96, 64), jnp.array([96, 64]), CONFIG)
    assert [len(level.boxes) for level in levels] == [3 * 24 * 16, 3 * 12 * 8, 3 * 6 * 4, 3 * 3 * 2, 3 * 2 * 1]
    assert all(level.valid.all() and level.boxes.dtype == jnp.float32 for level in levels)
    for level, size, stride in zip(levels, (32, 64, 128, 256, 512), (4, 8, 16, 32, 64), strict=True):
        np.testing.assert_allclose(level.boxes[1], [-size / 2, -size / 2, size / 2, size / 2])  # ratio 1, first cell
        step = [stride, 0] * 2 if stride < 64 else [0, stride] * 2  # P6 has one column
        np.testing.assert_allclose(level.boxes[3], np.asarray(level.boxes[0]) + step)
    np.testing.assert_allclose(levels[4].boxes[-2], [-256, 64 - 256, 256, 64 + 256])  # ratio 1, last cell


def test_only_the_extent_is_valid():
    # 33 x 20 pixels: the extent is 64 x 32.
    levels = jitted_anchors((96, 64), jnp.array([33, 20]), CONFIG)
    for level, (rows, columns), (height, width) in zip(
        levels,
        [(16, 8), (8, 4), (4, 2), (2, 1), (1, 1)],
        [(24, 16), (12, 8), (6, 4), (3, 2), (2, 1)],
        strict=True,
    ):
        expected = np.zeros((height, width, 3), bool)
        expected[:rows, :columns] = True
        np.testing.assert_array_equal(level.valid, expected.ravel())


def test_a_image_of_size_zero_has_none():
    assert not any(level.valid.any() for level in jitted_anchors((96, 64), jnp.array([0, 0]), CONFIG))
