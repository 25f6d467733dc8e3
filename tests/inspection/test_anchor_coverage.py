"""The best anchor of each box against a comparison with all anchors that training uses."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.detection.image_anchors import make_anchors
from mrcnn_jax.inspection.anchor_coverage import best_anchor_ious
from mrcnn_jax.ops.boxes import compute_iou

FPN = ModelConfig(anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0))
CONFIGS = {
    "fpn": FPN,
    "fitted and rounded": replace(FPN, anchor_stride="fitted", anchors_rounded=True),
    "c4 without padding": ModelConfig(neck="c4", anchor_sizes=(24.0, 60.0), size_divisor=1),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_best_anchor_is_that_of_all_anchors(name: str) -> None:
    config, rng = CONFIGS[name], np.random.default_rng(3)
    canvas, image_hw = (96, 160), (75, 141)
    corners = rng.uniform(0, 1, (200, 2, 2)) * (image_hw[1], image_hw[0])
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    boxes = np.concatenate(
        [boxes, [[130, 63, 141, 75], [0, 69, 12, 75], [137, 71, 141, 75]]]
    )  # beyond the last anchors
    levels = make_anchors(canvas, jnp.array(image_hw), config)
    anchors = np.concatenate([np.asarray(level.boxes)[np.asarray(level.valid)] for level in levels])
    expected = np.asarray(compute_iou(jnp.asarray(anchors), jnp.asarray(boxes, jnp.float32))).max(axis=0)
    found = best_anchor_ious(boxes, np.tile(image_hw, (len(boxes), 1)), config)
    np.testing.assert_allclose(found, expected, atol=2e-6)  # compute_iou is float32


def test_hand_made_boxes() -> None:
    exact = [[4.0, 4.0, 12.0, 12.0]]  # an anchor of 8 pixels around the cell at (8, 8)
    half = [[4.0, 4.0, 12.0, 8.0]]  # an anchor of ratio 0.5 is 11.3 x 5.7, one of 8 x 8 covers it with IoU 0.5
    size = np.array([[64, 64]])
    assert best_anchor_ious(np.array(exact), size, FPN)[0] == pytest.approx(1.0)
    assert best_anchor_ious(np.array(half), size, replace(FPN, anchor_ratios=(1.0,)))[0] == pytest.approx(0.5)
    assert best_anchor_ious(np.zeros((0, 4)), np.zeros((0, 2), int), FPN).shape == (0,)
