"""RoI features of a batch: image by image, each RoI from its own level."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.detection.pooling import pool_rois
from tests import oracles, tiny


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_equals_loop(sampling_ratio):
    rng = np.random.default_rng(0)
    # P2..P6 of a canvas of 256 x 512; P6 is full of NaN: nothing is pooled from it.
    pyramid = [rng.uniform(-1, 1, (2, 256 // s, 512 // s, 2)).astype(np.float32) for s in (4, 8, 16, 32, 64)]
    pyramid[4][:] = np.nan
    rois = np.array(
        [
            [[10, 20, 40, 60], [0, 0, 112, 112], [30, 5, 500, 250]],
            [[100, 10, 350, 240], [0, 0, 0, 0], [5.5, 7.5, 300.25, 90]],
        ],
        np.float32,
    )
    config = replace(tiny.MODEL, sampling_ratio=sampling_ratio)
    pool = jax.jit(pool_rois, static_argnames=("output_sizes", "model_config"))
    features = tuple(jnp.asarray(level) for level in pyramid)
    sizes = jnp.array([[256, 512], [200, 300]])  # the second image ends at 224 x 320 on its canvas
    # A second set, in another size, is of the first RoI of each image.
    sets = jnp.asarray(rois), jnp.asarray(rois[:, :1])
    pooled, finer = pool(features, sets, sizes, output_sizes=(3, 5), model_config=config)
    assert finer.shape == (2, 5, 5, 2) and pooled.shape == (6, 3, 3, 2)
    levels = [oracles.pyramid_level(roi) for roi in rois.reshape(-1, 4)]
    assert set(levels) == {0, 1, 2}
    for index, (roi, level) in enumerate(zip(rois.reshape(-1, 4), levels, strict=True)):
        stride = (4, 8, 16)[level]
        rows, columns = ((256, 512), (224, 320))[index // 3]
        feature = pyramid[level][index // 3, : rows // stride, : columns // stride].astype(np.float64)
        expected = oracles.roi_align(feature, roi, stride, 3, sampling_ratio, aligned=True)
        np.testing.assert_allclose(pooled[index], expected, atol=1e-5)
        if index % 3 == 0:
            expected = oracles.roi_align(feature, roi, stride, 5, sampling_ratio, aligned=True)
            np.testing.assert_allclose(finer[index // 3], expected, atol=1e-5)
