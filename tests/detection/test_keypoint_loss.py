"""The keypoint term of the objective: visible keypoints of foreground RoIs, and nothing else, bit for bit."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.detection.objective import compute_objective
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import Batch
from tests import tiny

NUM_KEYPOINTS = 3
CONFIG = replace(
    tiny.MODEL, neck="dc5", masks=False, num_keypoints=NUM_KEYPOINTS, keypoint_head_convs=1, keypoint_head_dim=8
)


def with_keypoints(batch: Batch, visibility: np.ndarray) -> Batch:
    """The batch with keypoints at the centre, a corner and outside of each box."""
    x0, y0, x1, y1 = np.moveaxis(np.asarray(batch.ground_truth.boxes), -1, 0)
    x = np.stack([(x0 + x1) / 2, x0 + 1, x1 + 50], axis=-1)
    y = np.stack([(y0 + y1) / 2, y0 + 1, y1 + 50], axis=-1)
    keypoints = jnp.asarray(np.stack([x, y, np.broadcast_to(visibility, x.shape)], axis=-1), jnp.float32)
    return batch.replace(ground_truth=batch.ground_truth.replace(keypoints=keypoints))


@pytest.fixture(scope="module")
def run():
    """Loss terms and gradients of the tiny model with a keypoint head."""
    params = tiny.make_variables(CONFIG)["params"]

    def loss(params, batch):
        objective = compute_objective(
            params, {}, batch, jax.random.key(0), model=MaskRCNN(CONFIG), targets_config=tiny.TARGETS
        )
        return objective.total, objective.sums

    return partial(jax.jit(jax.grad(loss, has_aux=True)), params)


def test_only_visible_keypoints_inside_count(run) -> None:
    batch = tiny.make_batch(2)
    gradients, sums = run(with_keypoints(batch, np.array([2, 1, 2])))
    # 3136 cells here 56 x 56: an untrained head is near log of their number.
    assert 0 < float(sums["loss/keypoint"]) / 2 < 3 * np.log(56 * 56)
    assert float(sums["loss/total"]) == pytest.approx(
        sum(float(value) for name, value in sums.items() if name.startswith("loss/") and name != "loss/total"), rel=1e-5
    )
    head = gradients["keypoint_head"]
    assert np.asarray(head["kernel"])[..., :2].any() and not np.asarray(head["kernel"])[..., 2].any()  # one is outside
    _, hidden = run(with_keypoints(batch, np.array([2, 1, 0])))
    assert hidden["loss/keypoint"] == sums["loss/keypoint"]


def test_nothing_visible_is_zero(run) -> None:
    gradients, sums = run(with_keypoints(tiny.make_batch(2), np.zeros(3)))
    assert float(sums["loss/keypoint"]) == 0.0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients["keypoint_head"]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_keypoints_of_padding_rows_have_no_effect(run) -> None:
    batch = with_keypoints(tiny.make_batch(2), np.array([2, 2, 2]))
    truth = batch.ground_truth
    spoilt = jnp.where(truth.valid[..., None, None], truth.keypoints, jnp.nan)
    expected, found = run(batch), run(batch.replace(ground_truth=truth.replace(keypoints=spoilt)))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
