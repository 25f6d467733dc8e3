"""The loss of a batch: L_rpn_cls + L_rpn_box + L_cls + L_box + L_mask (paper section 3) + L_keypoint (section 5).

Only the terms of the model's heads are included. Every loss is a mean over one image's samples, and the loss of a batch
is the mean over its valid images. So the loss of a global batch does not depend on how it is split over devices, and no
device needs the counts of another.

Shapes: B images, A anchors, S sampled anchors, N RoIs, F foreground slots (N / 4 by default), D channels.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mrcnn_jax.config import ModelConfig, TargetsConfig
from mrcnn_jax.detection.box_losses import roi_losses
from mrcnn_jax.detection.cascade import cascade_losses
from mrcnn_jax.detection.image_anchors import make_anchors
from mrcnn_jax.detection.pooling import pool_rois
from mrcnn_jax.detection.proposals import propose
from mrcnn_jax.detection.roi_targets import count_foreground, sample_rois
from mrcnn_jax.detection.rpn_targets import sample_anchors
from mrcnn_jax.ops.anchors import take_deltas, take_unique
from mrcnn_jax.ops.keypoints import encode_keypoints
from mrcnn_jax.ops.losses import box_loss, keypoint_loss, mask_loss, objectness_loss, pick, softmax_mask_loss
from mrcnn_jax.ops.masks import sample_mask_targets
from mrcnn_jax.structures import Batch, GroundTruth, RoiTargets, RpnTargets

Tree = dict[str, Any]


class Objective(NamedTuple):
    """Losses of a batch, summed over its valid images; divide by `num_images` for the mean."""

    total: Float[Array, ""]
    sums: dict[str, Float[Array, ""]]  # of each loss term, and of counts to monitor
    num_images: Float[Array, ""]
    model_state: Tree  # collections other than `params`, with updated batch statistics


def compute_objective(
    params: Tree,
    model_state: Tree,
    batch: Batch,
    key: Key[Array, ""],
    *,
    model: nn.Module,
    targets_config: TargetsConfig,
) -> Objective:
    """Returns the losses of all valid images. The function is pure and differentiable in `params`."""
    variables = {"params": params, **model_state}
    features, model_state = extract_features(variables, model_state, batch, model=model)
    losses, counts = image_losses(variables, features, batch, key, model=model, targets_config=targets_config)
    return sum_over_images(losses, counts, batch.valid, model_state)


def evaluate_losses(
    variables: Tree, batch: Batch, key: Key[Array, ""], *, model: nn.Module, targets_config: TargetsConfig
) -> dict[str, Float[Array, "b"]]:
    """Returns each loss term of each image and their "total", 0 if invalid; sync_bn uses its running statistics."""
    features = model.apply(variables, batch.images, valid_sizes(batch), method=model.extract_features)
    losses, _ = image_losses(variables, features, batch, key, model=model, targets_config=targets_config)
    losses = {name: jnp.where(batch.valid, loss, 0.0) for name, loss in losses.items()}
    return losses | {"total": sum(losses.values(), jnp.zeros(batch.valid.shape))}


def image_losses(
    variables: Tree,
    features: tuple[Array, ...],
    batch: Batch,
    key: Key[Array, ""],
    *,
    model: nn.Module,
    targets_config: TargetsConfig,
) -> tuple[dict[str, Float[Array, "b"]], dict[str, Float[Array, "b"]]]:
    """Returns each loss term of each image, from the features of the batch, and counts to monitor."""
    model_config = model.config
    image_hw = valid_sizes(batch)
    ground_truth = hide_invalid(batch.ground_truth, batch.valid)
    rpn_keys, roi_keys = sampling_keys(key, batch.sample_index)
    logits, deltas = model.apply(variables, features, image_hw, method=model.score_anchors)

    def choose_samples(
        logits: Any, deltas: Any, image_hw: Array, ground_truth: GroundTruth, rpn_key: Array, roi_key: Array
    ) -> tuple[RpnTargets, RoiTargets]:
        anchors = make_anchors(batch.images.shape[1:3], image_hw, model_config)
        rpn_targets = sample_anchors(anchors, ground_truth, targets_config=targets_config, key=rpn_key)
        proposals = propose(
            logits,
            deltas,
            anchors,
            image_hw,
            pre_nms_top_n=targets_config.pre_nms_top_n,
            post_nms_top_n=targets_config.post_nms_top_n,
            nms_threshold=targets_config.rpn_nms_threshold,
            min_side=model_config.min_proposal_side,
            score=model_config.proposal_score,
        )
        weights = model_config.box_delta_weights
        return rpn_targets, sample_rois(
            proposals, ground_truth, targets_config=targets_config, delta_weights=weights, key=roi_key
        )

    rpn_targets, roi_targets = jax.vmap(choose_samples)(
        *jax.lax.stop_gradient((logits, deltas)), image_hw, ground_truth, rpn_keys, roi_keys
    )
    losses = rpn_losses(logits, deltas, rpn_targets, targets_config)
    # All foreground lies in the first F slots, and the mask and keypoint heads use only these RoIs.
    foreground = jax.tree.map(lambda leaf: leaf[:, : targets_config.num_foreground_rois], roi_targets)
    roi_features = pool_for_heads(features, roi_targets, foreground, image_hw, model_config=model_config)
    if model_config.box_head_stages == 1:
        losses |= box_head_losses(
            variables, roi_features["box"], roi_targets, model=model, targets_config=targets_config
        )
    else:
        losses |= cascade_losses(
            variables, features, roi_targets, ground_truth, image_hw, model=model, targets_config=targets_config
        )
    if model_config.masks:
        losses |= mask_head_loss(variables, roi_features["mask"], foreground, ground_truth, model=model)
    if model_config.num_keypoints:
        losses |= keypoint_head_loss(variables, roi_features["keypoint"], foreground, ground_truth, model=model)
    return losses, count_foreground(roi_targets, ground_truth)


def valid_sizes(batch: Batch) -> Int[Array, "b 2"]:
    """Returns the sizes of the images on the canvas, 0 for invalid images."""
    return jnp.where(batch.valid[:, None], batch.image_hw, 0)


def hide_invalid(ground_truth: GroundTruth, image_valid: Array) -> GroundTruth:
    """Returns the ground truth with zeros in all rows that are padding or belong to an invalid image."""
    valid = ground_truth.valid & image_valid[:, None]
    return GroundTruth(
        boxes=jnp.where(valid[..., None], ground_truth.boxes, 0.0),
        labels=jnp.where(valid, ground_truth.labels, 0),
        masks=ground_truth.masks,  # only rows that are matched to a foreground RoI are read
        valid=valid,
        keypoints=ground_truth.keypoints,  # likewise
        has_mask=ground_truth.has_mask,  # likewise
    )


def sampling_keys(key: Key[Array, ""], sample_index: Array) -> tuple[Array, Array]:
    """Returns the keys for anchors and RoIs of each image, which follow from `key` and its place in training order."""
    keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index)))(sample_index)
    return keys[:, 0], keys[:, 1]


def extract_features(
    variables: Tree, model_state: Tree, batch: Batch, *, model: nn.Module
) -> tuple[tuple[Array, ...], Tree]:
    """Returns the features in training mode and the model state with updated batch statistics, if the norm has any."""
    inputs = variables, batch.images, valid_sizes(batch)
    if "batch_stats" not in model_state:
        return model.apply(*inputs, method=model.extract_features), model_state
    pyramid, updates = model.apply(*inputs, train=True, method=model.extract_features, mutable=["batch_stats"])
    return pyramid, {**model_state, **updates}


@jax.named_scope("rpn_losses")
def rpn_losses(
    logits: list[Array], deltas: list[Array], rpn_targets: RpnTargets, targets_config: TargetsConfig
) -> dict[str, Float[Array, "b"]]:
    """Returns L_rpn_cls and L_rpn_box of each image over its sampled anchors."""
    all_logits, all_deltas = jnp.concatenate(logits, axis=1), jnp.concatenate(deltas, axis=1)
    # Empty slots get unique indices after the last anchor: with unique indices, a gradient needs no atomic additions.
    empty = all_logits.shape[1] + jnp.arange(rpn_targets.valid.shape[1])
    index = jnp.where(rpn_targets.valid, rpn_targets.anchor_index, empty)
    sampled_logits = jax.vmap(take_unique)(all_logits, index)  # [B, S]
    sampled_deltas = jax.vmap(take_deltas)(all_deltas, index)  # [B, S, 4]

    def one(logits: Array, deltas: Array, sampled: RpnTargets) -> tuple[Array, Array]:
        classification = objectness_loss(logits, sampled.is_foreground, sampled.valid)
        regression = box_loss(
            deltas, sampled.deltas, sampled.is_foreground, sampled.valid, beta=targets_config.rpn_loss_beta
        )
        return classification, regression

    classification, regression = jax.vmap(one)(sampled_logits, sampled_deltas, rpn_targets)
    return {"objectness": classification, "rpn_box": regression}


def pool_for_heads(
    features: tuple[Array, ...],
    roi_targets: RoiTargets,
    foreground: RoiTargets,
    image_hw: Array,
    *,
    model_config: ModelConfig,
) -> dict[str, Float[Array, "bn _ _ D"]]:
    """Returns the RoI features of the heads that use the sampled RoIs: "box" (unless cascaded), "mask", "keypoint"."""
    sets = {
        "box": (model_config.box_head_stages == 1, roi_targets.rois, model_config.box_pool_size),
        "mask": (model_config.masks, foreground.rois, model_config.mask_pool_size),
        "keypoint": (model_config.num_keypoints > 0, foreground.rois, model_config.keypoint_pool_size),
    }
    wanted = {name: (rois, size) for name, (is_wanted, rois, size) in sets.items() if is_wanted}
    rois, sizes = zip(*wanted.values(), strict=True) if wanted else ((), ())
    return dict(
        zip(wanted, pool_rois(features, rois, image_hw, output_sizes=sizes, model_config=model_config), strict=True)
    )


@jax.named_scope("box_head_losses")
def box_head_losses(
    variables: Tree,
    roi_features: Float[Array, "bn S S D"],
    roi_targets: RoiTargets,
    *,
    model: nn.Module,
    targets_config: TargetsConfig,
) -> dict[str, Float[Array, "b"]]:
    """Returns L_cls and L_box of each image over its N RoIs."""
    model_config = model.config
    logits, deltas = model.apply(variables, roi_features, method=model.classify_rois)  # [B*N, C+1], [B*N, C+1, 4]

    def one(logits: Array, deltas: Array, rois: RoiTargets) -> tuple[Array, Array]:
        own_deltas = pick(jnp.moveaxis(deltas, 1, 2), rois.labels[:, None])  # [N, 4]
        return roi_losses(
            logits, own_deltas, rois, weights=model_config.box_delta_weights, targets_config=targets_config
        )

    batch_and_rois = roi_targets.labels.shape
    classification, regression = jax.vmap(one)(
        logits.reshape(*batch_and_rois, -1), deltas.reshape(*batch_and_rois, -1, 4), roi_targets
    )
    return {"class": classification, "box": regression}


@jax.named_scope("mask_head_loss")
def mask_head_loss(
    variables: Tree,
    roi_features: Float[Array, "bf S S D"],
    foreground: RoiTargets,
    ground_truth: GroundTruth,
    *,
    model: nn.Module,
) -> dict[str, Float[Array, "b"]]:
    """Returns L_mask of each image over its foreground RoIs whose object has a mask; 0 if there are none.

    The loss uses a sigmoid on the logits of each RoI's own class (paper section 3, "Mask Representation") or, if
    `mask_activation` is "softmax", a softmax over all classes (table 2b).
    """
    model_config = model.config
    logits = model.apply(variables, roi_features, foreground.labels.reshape(-1), method=model.predict_masks)

    def one(logits: Array, rois: RoiTargets, ground_truth: GroundTruth) -> Array:
        mask_targets = sample_mask_targets(
            ground_truth.masks, ground_truth.boxes, rois.rois, rois.matched_gt, output_size=model_config.mask_size
        )
        is_counted = rois.labels > 0
        if ground_truth.has_mask is not None:
            is_counted &= ground_truth.has_mask[rois.matched_gt]
        if model_config.mask_activation == "softmax":
            return softmax_mask_loss(logits, mask_targets, is_counted, rois.labels)
        return mask_loss(logits, mask_targets, is_counted)

    logits = logits.reshape(*foreground.labels.shape, *logits.shape[1:])
    return {"mask": jax.vmap(one)(logits, foreground, ground_truth)}


@jax.named_scope("keypoint_head_loss")
def keypoint_head_loss(
    variables: Tree,
    roi_features: Float[Array, "bf S S D"],
    foreground: RoiTargets,
    ground_truth: GroundTruth,
    *,
    model: nn.Module,
) -> dict[str, Float[Array, "b"]]:
    """Returns L_keypoint of each image over the visible keypoints in its foreground RoIs."""
    model_config = model.config
    logits = model.apply(variables, roi_features, method=model.predict_keypoints)  # [B*F, h, h, K]

    def one(logits: Array, rois: RoiTargets, keypoints: Any) -> Array:
        cells, inside = encode_keypoints(keypoints[rois.matched_gt], rois.rois, size=model_config.heat_map_size)
        return keypoint_loss(logits, cells, inside & (rois.labels > 0)[:, None])

    logits = logits.transpose(0, 3, 1, 2).reshape(*foreground.labels.shape, -1, *logits.shape[1:3])
    return {"keypoint": jax.vmap(one)(logits, foreground, ground_truth.keypoints)}


def sum_over_images(
    losses: dict[str, Float[Array, "b"]], counts: dict[str, Float[Array, "b"]], valid: Array, model_state: Tree
) -> Objective:
    """Returns each loss term, their total and the counts, summed over the valid images."""
    sums = {f"loss/{name}": jnp.sum(jnp.where(valid, loss, 0.0)) for name, loss in losses.items()}
    total = sum(sums.values(), jnp.float32(0.0))
    sums |= {"loss/total": total, **{name: jnp.sum(jnp.where(valid, each, 0.0)) for name, each in counts.items()}}
    return Objective(total, sums, jnp.sum(valid).astype(jnp.float32), model_state)
