"""Selection of an image's detections among scored boxes.

Shapes: P proposals, K candidates, C classes with background.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.ops.boxes import clip_boxes, decode_boxes, is_nonempty
from mrcnn_jax.ops.nms import suppress_overlaps
from mrcnn_jax.ops.top_k import find_largest
from mrcnn_jax.structures import Detections, Proposals


def select_detections(
    logits: Float[Array, "p c"],
    deltas: Float[Array, "p c 4"],
    proposals: Proposals,
    image_hw: Int[Array, "2"],
    *,
    model_config: ModelConfig,
    test_config: TestConfig,
) -> Detections:
    """Returns the detections of one image from the box head's outputs for its proposals."""

    def decode(proposal: Array, label: Array) -> Array:
        return decode_boxes(deltas[proposal, label], proposals.boxes[proposal], model_config.box_delta_weights)

    return select_boxes(jax.nn.softmax(logits, axis=-1), proposals.valid, decode, image_hw, test_config=test_config)


@jax.named_scope("select_boxes")
def select_boxes(
    scores: Float[Array, "p c"],
    valid: Bool[Array, "p"],
    decode: Callable[[Array, Array], Array],
    image_hw: Int[Array, "2"],
    *,
    test_config: TestConfig,
) -> Detections:
    """Returns the best `max_detections` boxes of one image above the score threshold, after NMS within each class.

    `decode` maps proposal indices [K] and labels [K] to boxes [K, 4]. Only the `test_config.max_candidates` best
    (proposal, class) pairs enter NMS. This is exact if `max_detections` boxes survive, or if at most `max_candidates`
    pairs pass the score threshold.
    """
    scores = scores[:, 1:]  # [P, C - 1]
    num_classes = scores.shape[1]
    passing = valid[:, None] & (scores > test_config.score_threshold)  # False for NaN
    num_candidates = min(test_config.max_candidates, passing.size)
    top_scores, top = find_largest(jnp.where(passing, scores, -1.0).reshape(-1), num_candidates)
    proposal, label = top // num_classes, top % num_classes + 1  # [K]
    boxes = clip_boxes(decode(proposal, label), image_hw)
    usable = (top_scores >= 0.0) & is_nonempty(boxes, test_config.min_detection_side)
    kept = suppress_overlaps(
        jnp.where(usable[:, None], boxes, 0.0),
        top_scores,
        usable,
        label,
        iou_threshold=test_config.nms_threshold,
        max_kept=test_config.max_detections,
    )
    return Detections(
        boxes=jnp.where(kept.valid[:, None], boxes[kept.indices], 0.0),
        scores=jnp.where(kept.valid, top_scores[kept.indices], 0.0),
        labels=jnp.where(kept.valid, label[kept.indices], 0),
        masks=jnp.zeros((test_config.max_detections, 0, 0), jnp.float32),
        heat_maps=jnp.zeros((test_config.max_detections, 0, 0, 0), jnp.float32),
        valid=kept.valid,
    )
