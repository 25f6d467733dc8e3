"""Pytree containers that the layers of the package exchange.

Each container describes one image; a batch is the same class with a leading dimension B. Rows whose `valid` is False
are padding: they contain zeros, and no result may depend on them.

Shapes: G ground-truth slots, M bitmap side, P proposals, N RoIs, A anchors, S sampled anchors, D detections, m side
of predicted masks, K keypoints, h heat-map side.
"""

from typing import Any

import flax.struct

Array = Any
"""A jax.Array, a tracer or, on the host side of the pipeline, a NumPy array."""


@flax.struct.dataclass
class GroundTruth:
    """Annotated objects of one image, in pixels of the network input."""

    boxes: Array  # [G, 4] float32
    labels: Array  # [G] int32, 1..C
    masks: Array  # [G, M, M] uint8 0 or 1, relative to the box
    valid: Array  # [G] bool
    keypoints: Array | None = None  # [G, K, 3] float32: x, y, COCO's visibility (0: not annotated); None: no such data
    has_mask: Array | None = None  # [G] bool; False: `masks` is zeros and trains nothing; None: all objects have a mask


@flax.struct.dataclass
class Batch:
    """The input of one training step; every leaf has a leading dimension B."""

    images: Array  # [B, H, W, 3] uint8 RGB, padded bottom and right with zeros
    image_hw: Array  # [B, 2] int32, size of the image on the canvas
    ground_truth: GroundTruth
    valid: Array  # [B] bool; False: a filler image, which has no effect
    image_id: Array  # [B] int32, the data set's id if it fits, else the record's index
    sample_index: Array  # [B] int32, epoch * number of records + record; seeds all random choices for the image


@flax.struct.dataclass
class Proposals:
    """Scored candidate regions of one image, best first."""

    boxes: Array  # [P, 4] float32
    scores: Array  # [P] float32, objectness logits
    valid: Array  # [P] bool
    not_finite: Array | None = None  # [] int32, as in Detections


@flax.struct.dataclass
class RpnTargets:
    """Sampled anchors of one image and the training targets of the RPN."""

    anchor_index: Array  # [S] int32
    is_foreground: Array  # [S] bool
    deltas: Array  # [S, 4] float32, zeros where not foreground
    valid: Array  # [S] bool


@flax.struct.dataclass
class RoiTargets:
    """RoIs of one image and the training targets of the heads; `sample_rois` places foreground first."""

    rois: Array  # [N, 4] float32
    labels: Array  # [N] int32, 0 background
    deltas: Array  # [N, 4] float32, zeros where background
    matched_gt: Array  # [N] int32, index of a ground-truth slot
    valid: Array  # [N] bool


@flax.struct.dataclass
class Detections:
    """Final detections of one image, best first.

    On the device, boxes are in pixels of the network input, and labels are 1..C. m, or K and h, are 0 if the model does
    not have that head.
    """

    boxes: Array  # [D, 4] float32
    scores: Array  # [D] float32
    labels: Array  # [D] int32
    masks: Array  # [D, m, m] float32, probabilities in the box
    heat_maps: Array  # [D, K, h, h] float32, logits of the keypoints in the box
    valid: Array  # [D] bool
    not_finite: Array | None = None  # [] int32, a bit for each part that computed NaN or infinity; see `finiteness`
