"""Objects without a mask ask nothing of the mask head: losses and gradients, bit for bit."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.detection import objective as objective_module
from mrcnn_jax.detection.objective import compute_objective, mask_head_loss
from mrcnn_jax.detection.roi_targets import sample_rois
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import GroundTruth, RoiTargets
from tests import oracles, tiny

SIDE = tiny.MODEL.mask_size
BATCH = tiny.make_batch(3, num_slots=4)
WITHOUT = np.array([[False, True, False, False], [True, False, True, False], [True, True, True, True]])
"""Slots without a mask: one object, two of three objects, and all objects of the last image."""


class GivenLogits(nn.Module):
    """A model whose RoI features are its mask logits."""

    config: ModelConfig

    def predict_masks(self, roi_features: jax.Array, labels: jax.Array) -> jax.Array:
        return roi_features if self.config.mask_activation == "softmax" else roi_features[..., 0]


def head_loss(logits: jax.Array, foreground: RoiTargets, truth: GroundTruth, activation: str) -> jax.Array:
    """The mask loss of each image, from logits [B, F, m, m, C]; C is 1 for "sigmoid"."""
    model = GivenLogits(replace(tiny.MODEL, mask_activation=activation))
    return mask_head_loss({}, logits.reshape(-1, *logits.shape[2:]), foreground, truth, model=model)["mask"]


@partial(jax.jit, static_argnums=3)
def run_head(logits: jax.Array, foreground: RoiTargets, truth: GroundTruth, activation: str):
    """The losses of all images and the gradient of their sum with respect to the logits."""
    losses, pull = jax.vjp(lambda logits: head_loss(logits, foreground, truth, activation), logits)
    return losses, *pull(jnp.ones_like(losses))


def make_case(activation: str) -> tuple[jax.Array, RoiTargets, GroundTruth]:
    """Logits, and eight RoIs of each image: two of each object, and two of the background."""
    truth = BATCH.ground_truth.replace(has_mask=jnp.asarray(~WITHOUT))
    rng = np.random.default_rng(0)
    matched = np.tile([0, 1, 2, 2, 1, 0, 0, 0], (3, 1))
    rois = np.take_along_axis(np.asarray(truth.boxes), matched[..., None], 1) + rng.uniform(-2, 2, (3, 8, 4))
    is_foreground = np.arange(8) < 6
    labels = np.where(is_foreground, np.take_along_axis(np.asarray(truth.labels), matched, 1), 0)
    foreground = RoiTargets(rois, labels, np.zeros((3, 8, 4)), matched, np.ones((3, 8), bool))
    foreground = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) if leaf.dtype == float else leaf, foreground)
    num_classes = 4 if activation == "softmax" else 1
    logits = rng.standard_normal((3, 8, SIDE, SIDE, num_classes)).astype(np.float32)
    return jnp.asarray(logits), jax.tree.map(jnp.asarray, foreground), truth


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_loss_is_that_without_their_rois(activation: str) -> None:
    logits, foreground, truth = make_case(activation)
    asked = np.take_along_axis(~WITHOUT, np.asarray(foreground.matched_gt), 1) & (np.asarray(foreground.labels) > 0)
    assert asked.sum(1).tolist() == [4, 2, 0]
    emptied = replace(foreground, labels=jnp.where(asked, foreground.labels, 0))
    every = truth.replace(has_mask=jnp.ones((3, 4), bool))
    found, expected = run_head(logits, foreground, truth, activation), run_head(logits, emptied, every, activation)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert (found[0][:2] > 0).all() and found[0][2] == 0
    gradient = np.asarray(found[1])
    assert not gradient[~asked].any() and all(row.any() for row in gradient[asked])
    # Whatever their rows contain, bit for bit.
    spoilt = jnp.where(asked[..., None, None, None], logits, np.nan)
    masks = jnp.where(WITHOUT[..., None, None], jnp.uint8(255), truth.masks)
    jax.tree.map(
        np.testing.assert_array_equal, run_head(spoilt, foreground, truth.replace(masks=masks), activation), found
    )


def test_the_loss_is_a_mean_over_rois_with_a_mask() -> None:
    logits, foreground, truth = make_case("sigmoid")
    whole = truth.replace(masks=jnp.ones_like(truth.masks), boxes=truth.boxes + jnp.array([[[-50.0, -50, 50, 50]]]))
    loss, _ = run_head(logits, foreground, whole, "sigmoid")
    for image, rois in enumerate([[0, 2, 3, 5], [1, 4]]):
        expected = oracles.binary_cross_entropy(np.asarray(logits)[image, rois], 1.0).mean()
        np.testing.assert_allclose(loss[image], expected, rtol=1e-6)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_with_all_masks_the_loss_is_as_without_the_flag(activation: str) -> None:
    logits, foreground, truth = make_case(activation)
    every, unknown = truth.replace(has_mask=jnp.ones((3, 4), bool)), truth.replace(has_mask=None)
    found, expected = (run_head(logits, foreground, given, activation) for given in (every, unknown))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    half = jax.eval_shape(partial(head_loss, activation=activation), logits.astype(jnp.bfloat16), foreground, every)
    assert half.dtype == jnp.float32


@pytest.fixture(scope="module")
def step(objective):
    """(batch, whether the RoIs of objects in WITHOUT are removed) to losses and gradients, from one program."""

    def total(params: dict, batch, remove: jax.Array):
        def sample(proposals, truth: GroundTruth, **options) -> RoiTargets:
            found = sample_rois(proposals, truth.replace(keypoints=None), **options)
            gone = remove & truth.keypoints[found.matched_gt, 0, 0].astype(bool)
            return found.replace(labels=jnp.where(gone, 0, found.labels), valid=found.valid & ~gone)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objective_module, "sample_rois", sample)
            marks = jnp.asarray(WITHOUT, jnp.float32)[..., None, None]  # the model has no keypoint head
            batch = batch.replace(ground_truth=batch.ground_truth.replace(keypoints=marks))
            run = partial(compute_objective, model=MaskRCNN(tiny.MODEL), targets_config=tiny.TARGETS)
            result = run(params, {}, batch, jax.random.key(0))
        return result.total, {**result.sums, "num_images": result.num_images}

    differentiate = jax.jit(jax.grad(total, has_aux=True))

    def run(has_mask: np.ndarray, remove: bool = False, batch=BATCH):
        batch = batch.replace(ground_truth=batch.ground_truth.replace(has_mask=jnp.asarray(has_mask)))
        params = tiny.make_variables(tiny.MODEL)["params"]
        gradients, sums = jax.device_get(differentiate(params, batch, remove))
        return sums, gradients

    return run


def test_the_step_is_that_without_their_rois_in_the_mask_head_and_unchanged_elsewhere(step, objective) -> None:
    everything = step(np.ones((3, 4), bool))
    jax.tree.map(np.testing.assert_array_equal, everything, objective(BATCH))
    (sums, gradients), (removed, removed_gradients) = step(~WITHOUT), step(np.ones((3, 4), bool), remove=True)
    assert 0 < removed["foreground_rois"] < sums["foreground_rois"]
    assert sums["loss/mask"] == removed["loss/mask"] and 0 < sums["loss/mask"] != everything[0]["loss/mask"]
    jax.tree.map(np.testing.assert_array_equal, gradients["mask_head"], removed_gradients["mask_head"])
    assert all(leaf.any() for leaf in jax.tree.leaves(gradients["mask_head"]))
    for name in set(sums) - {"loss/mask", "loss/total"}:
        assert sums[name] == everything[0][name]
    for part in ("box_head", "rpn_head"):
        jax.tree.map(np.testing.assert_array_equal, gradients[part], everything[1][part])
    assert removed["loss/box"] != sums["loss/box"]


def test_padding_and_hidden_masks_have_no_effect(step) -> None:
    expected = step(~WITHOUT)
    padding = np.arange(4) == 3
    jax.tree.map(np.testing.assert_array_equal, step(np.where(padding, WITHOUT, ~WITHOUT)), expected)
    masks = jnp.where(WITHOUT[..., None, None], jnp.uint8(255), BATCH.ground_truth.masks)
    spoilt = BATCH.replace(ground_truth=BATCH.ground_truth.replace(masks=masks))
    jax.tree.map(np.testing.assert_array_equal, step(~WITHOUT, batch=spoilt), expected)


def test_without_any_mask_the_mask_head_has_no_gradient(step) -> None:
    sums, gradients = step(np.zeros((3, 4), bool))
    assert sums["loss/mask"] == 0 < sums["loss/box"]
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients["mask_head"]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
