"""Every neck, and a model without masks, go through both stories: finite losses, gradients everywhere, detections."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.detection.objective import compute_objective
from mrcnn_jax.detection.predict import predict
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from tests import tiny

DC5 = replace(
    tiny.MODEL, neck="dc5", norm="frozen_bn", head_norm="none", anchor_sizes=(8.0, 16.0, 32.0), size_divisor=1
)
MODELS = {
    "c4": replace(DC5, neck="c4", box_pool_size=8, mask_pool_size=8),
    "c5": replace(DC5, neck="c5", size_divisor=32),
    "dc5": DC5,
    "no_masks": replace(tiny.MODEL, masks=False, rpn_convs=2, box_head_convs=1, box_head_conv_dim=8, box_head_fcs=1),
}
TEST = TestConfig(post_nms_top_n=20, max_detections=5, score_threshold=0.0)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(name: str) -> None:
    config = MODELS[name]
    variables, batch = tiny.make_variables(config), tiny.make_batch(2, (64, 96))
    state = {key: value for key, value in variables.items() if key != "params"}

    def loss(params: dict) -> tuple:
        found = compute_objective(
            params, state, batch, jax.random.key(0), model=MaskRCNN(config), targets_config=tiny.TARGETS
        )
        return found.total, found.sums

    gradients, sums = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert ("loss/mask" in sums) == config.masks and np.isfinite(float(sums["loss/total"]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and np.asarray(leaf).any(), jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", MODELS)
def test_detections_have_the_heads_outputs(name: str) -> None:
    config = MODELS[name]
    batch = tiny.make_batch(2, (64, 96))
    run = jax.jit(lambda *inputs: predict(*inputs, model=MaskRCNN(config), test_config=TEST))
    found = run(tiny.make_variables(config), batch.images, batch.image_hw)
    side = {"c4": 8, "no_masks": 0}.get(name, 28)
    assert found.valid.any() and found.masks.shape == (2, 5, side, side) and found.heat_maps.shape == (2, 5, 0, 0, 0)
    assert ModelConfig().mask_size == 28 and (not config.masks or config.mask_size == side)
