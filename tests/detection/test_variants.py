"""The mask loss acts on the map of the RoI's own class alone, on foreground RoIs alone; the softmax on all of them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.detection.objective import compute_objective
from mrcnn_jax.detection.predict import mask_probabilities
from mrcnn_jax.models.heads import MaskHead, MlpMaskHead
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.ops.losses import softmax_mask_loss
from tests import oracles, tiny
from tests.models.test_heads import random_array, random_variables

LABELS = jnp.array([2, 0, 3, 2], jnp.int32)
FOREGROUND = LABELS > 0


def softmax_loss_by_loop(logits: np.ndarray, targets: np.ndarray, labels: np.ndarray) -> float:
    """Mean over foreground RoIs and pixels of -log softmax of the pixel's class."""
    losses = []
    for roi_logits, target, label in zip(logits, targets, labels, strict=True):
        for row, target_row in zip(roi_logits, target, strict=True):
            for pixel, inside in zip(row, target_row, strict=True):
                if label > 0:
                    losses.append(-np.log(oracles.softmax(pixel)[label if inside else 0]))
    return float(np.mean(losses))


def test_softmax_loss_equals_loop_with_gradients() -> None:
    logits = random_array(4, 3, 3, 4)
    targets = (random_array(4, 3, 3, seed=1) > 0).astype(jnp.float32)
    found = softmax_mask_loss(logits, targets, FOREGROUND, LABELS)
    assert float(found) == pytest.approx(softmax_loss_by_loop(*map(np.asarray, (logits, targets, LABELS))), rel=1e-6)
    gradients = jax.grad(softmax_mask_loss)(logits, targets, FOREGROUND, LABELS)
    step = 1e-6
    for index in [(0, 1, 2, 2), (0, 1, 2, 0), (0, 0, 0, 3), (1, 0, 0, 0), (2, 2, 1, 3), (3, 0, 1, 1)]:
        sides = []
        for sign in (1, -1):
            moved = np.asarray(logits, np.float64).copy()
            moved[index] += sign * step
            sides.append(softmax_loss_by_loop(moved, np.asarray(targets), np.asarray(LABELS)))
        assert float(gradients[index]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-6), index
    assert not np.asarray(gradients)[1].any()  # background


def test_softmax_loss_ignores_what_is_in_background_rows() -> None:
    logits, targets = random_array(4, 3, 3, 4), jnp.ones((4, 3, 3))
    spoilt = logits.at[1].set(jnp.nan), targets.at[1].set(jnp.nan)
    expected = jax.value_and_grad(softmax_mask_loss)(logits, targets, FOREGROUND, LABELS)
    jax.tree.map(
        np.testing.assert_array_equal, jax.value_and_grad(softmax_mask_loss)(*spoilt, FOREGROUND, LABELS), expected
    )
    nothing = softmax_mask_loss(logits, targets, jnp.zeros(4, bool), LABELS)
    assert float(nothing) == 0.0


def test_probabilities_are_those_of_the_own_class() -> None:
    logits = random_array(4, 3, 3, 4)
    found = mask_probabilities(logits, LABELS, activation="softmax")
    for roi, label in enumerate(LABELS.tolist()):
        np.testing.assert_allclose(found[roi], oracles.softmax(logits[roi])[..., label], rtol=1e-5)
    own = mask_probabilities(logits[..., 0], LABELS, activation="sigmoid")
    np.testing.assert_allclose(own, oracles.sigmoid(logits[..., 0]), rtol=1e-5)


@pytest.mark.parametrize("head", [MaskHead, MlpMaskHead])
def test_the_heads_maps_by_variant(head: type) -> None:
    base = ModelConfig(num_classes=3, fpn_channels=6, mask_head_dim=5, mask_head_convs=1, mask_head_fc_dim=7)
    base = replace(base, mask_pool_size=3)
    features = random_array(4, 3, 3, 6)
    softmax = head(replace(base, mask_activation="softmax"))
    variables = random_variables(softmax, features, LABELS)
    maps = softmax.apply(variables, features, LABELS)
    assert maps.shape == (4, 6, 6, 4)
    own = head(base).apply(variables, features, LABELS)  # the same parameters, only what is put out differs
    np.testing.assert_allclose(own, jnp.take_along_axis(maps, LABELS[:, None, None, None], axis=3)[..., 0], atol=1e-5)
    agnostic = head(replace(base, class_agnostic_masks=True))
    variables = random_variables(agnostic, features, LABELS)
    found = agnostic.apply(variables, features, LABELS)
    np.testing.assert_array_equal(found, agnostic.apply(variables, features, LABELS[::-1]))


def test_mlp_equals_numpy() -> None:
    config = ModelConfig(num_classes=2, fpn_channels=6, mask_head_fc_dim=7, mask_head_fcs=3, mask_pool_size=2)
    features, labels = random_array(2, 2, 2, 6), jnp.array([2, 1], jnp.int32)
    variables = random_variables(MlpMaskHead(config), features, labels)
    x = np.asarray(features, np.float64).reshape(2, -1)
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    for name in ("fc1", "fc2", "fc3"):
        x = np.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0)
    x = x @ layers["logits"]["kernel"] + layers["logits"]["bias"]
    maps = x.reshape(2, 4, 4, 3)
    found = MlpMaskHead(config).apply(variables, features, labels)
    np.testing.assert_allclose(found, np.stack([maps[0, ..., 2], maps[1, ..., 1]]), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def mask_gradients():
    """Gradients of a batch whose objects all have label 2, with respect to the mask head, by mask variant."""

    def run(**changes: object) -> dict:
        config = replace(tiny.MODEL, neck="dc5", **changes)
        batch = tiny.make_batch(2)
        truth = batch.ground_truth
        truth = truth.replace(labels=jnp.where(truth.valid, 2, 0))
        variables = tiny.make_variables(config)

        def loss(params: dict) -> jax.Array:
            found = compute_objective(
                params,
                {},
                batch.replace(ground_truth=truth),
                jax.random.key(0),
                model=MaskRCNN(config),
                targets_config=tiny.TARGETS,
            )
            return found.sums["loss/mask"]

        return jax.jit(jax.grad(loss))(variables["params"])["mask_head"]

    return run


def test_gradient_to_other_classes_maps_is_exactly_zero(mask_gradients) -> None:
    gradients = mask_gradients()
    for name in ("kernel", "bias"):
        by_class = np.abs(np.asarray(gradients[name])).reshape(-1, 4).max(axis=0)
        assert by_class[2] > 0 and not by_class[[0, 1, 3]].any()


def test_with_softmax_the_classes_compete(mask_gradients) -> None:
    by_class = np.abs(np.asarray(mask_gradients(mask_activation="softmax")["kernel"])).max(axis=0)
    assert (by_class > 0).all()


def test_mlp_has_the_same_rule() -> None:
    head = MlpMaskHead(ModelConfig(num_classes=3, fpn_channels=6, mask_head_fc_dim=7, mask_pool_size=2))
    features, labels = random_array(2, 2, 2, 6), jnp.array([2, 2], jnp.int32)
    variables = random_variables(head, features, labels)
    gradients = jax.grad(lambda v: jnp.sum(head.apply(v, features, labels) ** 2))(variables)["params"]["logits"]
    by_class = np.abs(np.asarray(gradients["kernel"])).reshape(-1, 4).max(axis=0)
    assert by_class[2] > 0 and not by_class[[0, 1, 3]].any()
