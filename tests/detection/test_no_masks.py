"""A model without masks goes through both stories: finite losses, gradients everywhere, detections.

tests/test_presets.py does the same with every neck and every other head."""

from dataclasses import replace

import jax
import numpy as np

from mrcnn_jax.config import TestConfig
from mrcnn_jax.detection.objective import compute_objective
from mrcnn_jax.detection.predict import predict
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from tests import tiny

MODEL = replace(tiny.MODEL, neck="dc5", masks=False, rpn_convs=2, box_head_convs=1, box_head_conv_dim=8, box_head_fcs=1)
TEST = TestConfig(post_nms_top_n=20, max_detections=5, score_threshold=0.0)


def test_every_parameter_learns() -> None:
    variables, batch = tiny.make_variables(MODEL), tiny.make_batch(2, (64, 96))
    state = {key: value for key, value in variables.items() if key != "params"}

    def loss(params: dict) -> tuple:
        found = compute_objective(
            params, state, batch, jax.random.key(0), model=MaskRCNN(MODEL), targets_config=tiny.TARGETS
        )
        return found.total, found.sums

    gradients, sums = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert "loss/mask" not in sums and np.isfinite(float(sums["loss/total"]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and np.asarray(leaf).any(), jax.tree_util.keystr(path)


def test_detections_have_the_heads_outputs() -> None:
    batch = tiny.make_batch(2, (64, 96))
    run = jax.jit(lambda *inputs: predict(*inputs, model=MaskRCNN(MODEL), test_config=TEST))
    found = run(tiny.make_variables(MODEL), batch.images, batch.image_hw)
    assert found.valid.any() and found.masks.shape == (2, 5, 0, 0) and found.heat_maps.shape == (2, 5, 0, 0, 0)
