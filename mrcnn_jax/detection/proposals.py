"""Selection of one image's proposals from the outputs of the RPN (Faster R-CNN, section 3.1; FPN, section 4.1)."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mrcnn_jax import known_faults
from mrcnn_jax.detection.image_anchors import LevelAnchors
from mrcnn_jax.ops.anchors import choose_deltas, take_cells
from mrcnn_jax.ops.boxes import clip_boxes, decode_boxes, is_nonempty
from mrcnn_jax.ops.nms import suppress_overlaps
from mrcnn_jax.ops.top_k import find_largest
from mrcnn_jax.structures import Proposals

RPN_DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


@jax.named_scope("propose")
def propose(
    logits: list[Float[Array, "_"]],
    deltas: list[Float[Array, "_ _"]],
    anchors: list[LevelAnchors],
    image_hw: Array,
    *,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_threshold: float,
    min_side: float = 0.0,
    score: Literal["logit", "probability"] = "logit",
) -> Proposals:
    """Returns the `post_nms_top_n` best proposals of all levels.

    On each level, the boxes with the `pre_nms_top_n` highest logits are decoded and clipped to the image, and NMS is
    applied to them. Boxes with a side of 0 or below `min_side` pixels are dropped. Levels are merged by `score`:
    probabilities that round to the same float32 tie, and the finer level wins. No gradient flows through proposals.
    """
    known_faults.warn_once(jax.default_backend())  # here, because every program traces this
    candidates, groups = [], []
    for level, (level_logits, level_deltas, level_anchors) in enumerate(zip(logits, deltas, anchors, strict=True)):
        usable = level_anchors.valid & jnp.isfinite(level_logits)
        top_n = min(pre_nms_top_n, level_logits.shape[0])
        top_logits, top = find_largest(jnp.where(usable, level_logits, -jnp.inf), top_n)
        top = top.astype(jnp.uint32)  # so that JAX need not handle negative indices
        candidates.append((top_logits, top, take_cells(level_deltas, top), level_anchors.boxes[top], usable[top]))
        groups.append(np.full(top_n, level, np.int32))
    top_logits, top, rows, top_anchors, usable = (jnp.concatenate(parts) for parts in zip(*candidates, strict=True))
    clipped = clip_boxes(decode_boxes(choose_deltas(rows, top), top_anchors, RPN_DELTA_WEIGHTS), image_hw)
    all_valid = usable & is_nonempty(clipped, min_side)
    all_boxes = jnp.where(all_valid[:, None], clipped, 0.0)
    all_logits = jnp.where(all_valid, top_logits, 0.0)
    all_scores = all_logits if score == "logit" else 1.0 / (1.0 + jnp.exp(-all_logits))
    kept = suppress_overlaps(
        all_boxes,
        all_scores,
        all_valid,
        jnp.asarray(np.concatenate(groups)),
        iou_threshold=nms_threshold,
        max_kept=post_nms_top_n,
    )
    proposals = Proposals(
        boxes=jnp.where(kept.valid[:, None], all_boxes[kept.indices], 0.0),
        scores=jnp.where(kept.valid, all_logits[kept.indices], 0.0),
        valid=kept.valid,
    )
    return jax.lax.stop_gradient(proposals)
