"""The objective against its five formulas in float64, and its gradient against finite differences."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.detection.image_anchors import make_anchors
from mrcnn_jax.detection.objective import compute_objective, sampling_keys
from mrcnn_jax.detection.pooling import pool_rois
from mrcnn_jax.detection.proposals import propose
from mrcnn_jax.detection.roi_targets import sample_rois
from mrcnn_jax.detection.rpn_targets import sample_anchors
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.ops.masks import sample_mask_targets
from mrcnn_jax.structures import RoiTargets
from tests import oracles, tiny

MODEL, TARGETS, QUOTA = MaskRCNN(tiny.MODEL), tiny.TARGETS, tiny.TARGETS.num_foreground_rois
BATCH = tiny.make_batch(3, num_slots=4)


def apply(params: dict, part: str, *inputs):
    return MODEL.apply({"params": params}, *inputs, method=part)


@jax.jit
def choose_samples(params: dict, key: jax.Array):
    """Targets of all images: what compute_objective draws for the same key."""
    pyramid = apply(params, "extract_features", BATCH.images, BATCH.image_hw)
    logits, deltas = apply(params, "score_anchors", pyramid, BATCH.image_hw)

    def one(logits, deltas, image_hw, truth, rpn_key, roi_key):
        anchors = make_anchors((64, 64), image_hw, tiny.MODEL)
        limits = {"pre_nms_top_n": TARGETS.pre_nms_top_n, "post_nms_top_n": TARGETS.post_nms_top_n}
        proposals = propose(logits, deltas, anchors, image_hw, **limits, nms_threshold=TARGETS.rpn_nms_threshold)
        weights = tiny.MODEL.box_delta_weights
        rois = sample_rois(proposals, truth, targets_config=TARGETS, delta_weights=weights, key=roi_key)
        masks = partial(sample_mask_targets, output_size=tiny.MODEL.mask_size)
        mask_targets = masks(truth.masks, truth.boxes, rois.rois[:QUOTA], rois.matched_gt[:QUOTA])
        return sample_anchors(anchors, truth, targets_config=TARGETS, key=rpn_key), rois, mask_targets

    keys = sampling_keys(key, BATCH.sample_index)
    return jax.vmap(one)(logits, deltas, BATCH.image_hw, BATCH.ground_truth, *keys)


@jax.jit
def run_heads(params: dict, rois: RoiTargets):
    """All that the network says: anchor logits and deltas, RoI logits and deltas, mask logits."""
    pyramid = apply(params, "extract_features", BATCH.images, BATCH.image_hw)
    logits, deltas = apply(params, "score_anchors", pyramid, BATCH.image_hw)
    pool = partial(pool_rois, pyramid, image_hw=BATCH.image_hw, model_config=tiny.MODEL)
    (roi_features,) = pool([rois.rois], output_sizes=[tiny.MODEL.box_pool_size])
    roi_logits, roi_deltas = apply(params, "classify_rois", roi_features)
    (features,) = pool([rois.rois[:, :QUOTA]], output_sizes=[tiny.MODEL.mask_pool_size])
    masks = apply(params, "predict_masks", features, rois.labels[:, :QUOTA].reshape(-1))
    per_image = [leaf.reshape(3, -1, *leaf.shape[1:]) for leaf in (roi_logits, roi_deltas, masks)]
    return jnp.concatenate(logits, axis=1), jnp.concatenate(deltas, axis=1).reshape(3, -1, 4), *per_image


def losses_by_formula(outputs, samples) -> dict[str, float]:
    """The five losses, each a mean over an image's samples, summed over the images; float64."""
    (logits, deltas, roi_logits, roi_deltas, mask_logits), (anchors, rois, mask_targets) = outputs, samples
    sums = dict.fromkeys(("objectness", "rpn_box", "class", "box", "mask"), 0.0)
    for i in range(3):
        valid = np.flatnonzero(anchors.valid[i])
        index, is_foreground = anchors.anchor_index[i][valid], anchors.is_foreground[i][valid]
        sums["objectness"] += oracles.binary_cross_entropy(logits[i][index], is_foreground).mean()
        error = (deltas[i][index] - anchors.deltas[i][valid])[is_foreground]
        sums["rpn_box"] += oracles.smooth_l1(error, TARGETS.rpn_loss_beta).sum() / len(valid)
        valid = np.flatnonzero(rois.valid[i])
        labels = rois.labels[i][valid]
        sums["class"] += -np.log(oracles.softmax(roi_logits[i][valid])[np.arange(len(valid)), labels]).mean()
        error = (roi_deltas[i][valid, labels] - rois.deltas[i][valid])[labels > 0]
        sums["box"] += oracles.smooth_l1(error, TARGETS.box_loss_beta).sum() / len(valid)
        foreground = rois.labels[i][:QUOTA] > 0
        sums["mask"] += oracles.binary_cross_entropy(mask_logits[i][foreground], mask_targets[i][foreground]).mean()
    return sums


def test_equals_the_five_formulas(objective):
    params = tiny.make_variables(tiny.MODEL)["params"]
    samples = jax.device_get(choose_samples(params, jax.random.key(0)))
    outputs = jax.device_get(run_heads(params, samples[1]))
    sums, _ = objective(BATCH)
    expected = losses_by_formula(outputs, samples)
    for name, value in expected.items():
        assert value > 0
        np.testing.assert_allclose(sums[f"loss/{name}"], value, rtol=1e-4)
    np.testing.assert_allclose(sums["loss/total"], sum(expected.values()), rtol=1e-5)
    assert sums["foreground_rois"] == (samples[1].labels > 0).sum() and sums["num_images"] == 3


def test_gradient_equals_finite_differences(objective):
    # The samples stay fixed: choosing them is not differentiable, and no gradient flows through it.
    params = tiny.make_variables(tiny.MODEL)["params"]
    samples = jax.device_get(choose_samples(params, jax.random.key(0)))
    _, gradients = objective(BATCH)
    rng = np.random.default_rng(0)
    for _ in range(4):
        # Along the gradient of some of the leaves: in a random direction hardly anything would change.
        part = jax.tree.map(lambda leaf: leaf * (rng.random() < 0.3) * rng.uniform(0.5, 2, leaf.shape), gradients)
        norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(part)))
        step = jax.tree.map(lambda leaf: (leaf * (1e-3 / norm)).astype(np.float32), part)  # noqa: B023
        ends = [
            sum(
                losses_by_formula(
                    jax.device_get(run_heads(jax.tree.map(move, params, step), samples[1])), samples
                ).values()
            )
            for move in (np.add, np.subtract)
        ]
        expected = sum(
            float((g * s).sum()) for g, s in zip(jax.tree.leaves(gradients), jax.tree.leaves(step), strict=True)
        )
        # ReLUs that switch within the step, and float32: a few percent.
        assert (ends[0] - ends[1]) / 2 == pytest.approx(expected, rel=0.03)


def test_the_forms_for_gpus_give_the_same_losses_and_gradients(objective, monkeypatch):
    def as_on_gpu(*inputs, **forms):
        return forms.get("cuda", forms.get("default"))(*inputs)

    monkeypatch.setattr(jax.lax, "platform_dependent", as_on_gpu)
    variables = tiny.make_variables(tiny.MODEL)

    def total(params: dict):
        loss = partial(compute_objective, model=MODEL, targets_config=TARGETS)
        result = loss(params, {}, BATCH, jax.random.key(0))
        return result.total, result.sums

    gradients, sums = jax.device_get(jax.jit(jax.grad(total, has_aux=True))(variables["params"]))
    expected_sums, expected = objective(BATCH)
    for name, value in sums.items():
        np.testing.assert_allclose(value, expected_sums[name], rtol=1e-5)
    jax.tree.map(
        lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max()),
        gradients,
        expected,
    )


def test_samples_follow_the_key_and_the_sample_index(objective):
    first, again = objective(BATCH, seed=0)[0], objective(BATCH, seed=0)[0]
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert objective(BATCH, seed=1)[0]["loss/class"] != first["loss/class"]
    moved = objective(BATCH.replace(sample_index=BATCH.sample_index + 1000))[0]
    assert moved["loss/class"] != first["loss/class"] and moved["loss/objectness"] != first["loss/objectness"]


def test_order_of_images_does_not_matter(objective):
    first, gradients = objective(BATCH)
    turned, turned_gradients = objective(jax.tree.map(lambda leaf: leaf[::-1], BATCH))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), turned, first)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5 * scale), turned_gradients, gradients)


def test_images_without_objects(objective):
    truth = jax.tree.map(jnp.zeros_like, BATCH.ground_truth)
    sums, gradients = objective(BATCH.replace(ground_truth=truth))
    assert sums["loss/rpn_box"] == sums["loss/box"] == sums["loss/mask"] == sums["foreground_rois"] == 0
    assert sums["loss/objectness"] > 0 and sums["loss/class"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients["mask_head"]))


def test_all_slots_full(objective):
    sums, gradients = objective(tiny.make_batch(3, num_slots=4, num_objects=4))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((sums, gradients)))


def test_a_batch_of_fillers_is_zero(objective):
    sums, gradients = objective(BATCH.replace(valid=jnp.zeros(3, bool)))
    assert not any(value.any() for value in sums.values())
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("norm", ["frozen_bn", "sync_bn"])
def test_losses_and_gradients_are_float32_in_bfloat16(norm):
    config = replace(tiny.MODEL, norm=norm, dtype="bfloat16")
    variables = jax.eval_shape(lambda: tiny.make_variables(config))
    model_state = {name: value for name, value in variables.items() if name != "params"}

    def total(params):
        result = compute_objective(
            params, model_state, BATCH, jax.random.key(0), model=MaskRCNN(config), targets_config=TARGETS
        )
        return result.total, result

    model_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model_state)
    gradients, result = jax.eval_shape(jax.grad(total, has_aux=True), variables["params"])
    assert {leaf.dtype for leaf in jax.tree.leaves((gradients, result))} == {jnp.dtype("float32")}
    assert set(result.model_state) == (
        {"batch_stats"} if norm == "sync_bn" else {"frozen"} if norm == "frozen_bn" else set()
    )
