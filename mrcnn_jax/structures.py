"""Pytree containers that the layers hand to each other.

Each array container describes ONE image; the batched form is the same class with a leading B. Rows with `valid` False
are padding: they hold zeros, and nothing may depend on them. Shapes: G ground-truth slots, M bitmap side, P proposals,
N RoIs, A anchors, S sampled anchors, D detections, m predicted mask side, K keypoints, h heat-map side.
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


@flax.struct.dataclass
class Batch:
    """What one training step sees; every leaf has a leading B."""

    images: Array  # [B, H, W, 3] uint8 RGB, padded bottom and right with zeros
    image_hw: Array  # [B, 2] int32, size of the image inside the canvas
    ground_truth: GroundTruth
    valid: Array  # [B] bool; False: a filler image without effect
    image_id: Array  # [B] int32, the data set's own id where it fits, else the record's index
    sample_index: Array  # [B] int32, epoch * number of records + record: seeds everything random about this image


@flax.struct.dataclass
class Proposals:
    """Scored candidate regions of one image, best first."""

    boxes: Array  # [P, 4] float32
    scores: Array  # [P] float32, objectness logits
    valid: Array  # [P] bool
    not_finite: Array | None = None  # [] int32, as in Detections


@flax.struct.dataclass
class RpnTargets:
    """Sampled anchors of one image and what the RPN should say about them."""

    anchor_index: Array  # [S] int32
    is_foreground: Array  # [S] bool
    deltas: Array  # [S, 4] float32, zeros where not foreground
    valid: Array  # [S] bool


@flax.struct.dataclass
class RoiTargets:
    """Sampled RoIs of one image, foreground in the first slots, and what the heads should say about them."""

    rois: Array  # [N, 4] float32
    labels: Array  # [N] int32, 0 background
    deltas: Array  # [N, 4] float32, zeros where background
    matched_gt: Array  # [N] int32, index of a ground-truth slot
    valid: Array  # [N] bool


@flax.struct.dataclass
class Detections:
    """Final detections of one image, best first.

    On the device: boxes in pixels of the network input, labels 1..C. m, K and h are 0 without the head.
    """

    boxes: Array  # [D, 4] float32
    scores: Array  # [D] float32
    labels: Array  # [D] int32
    masks: Array  # [D, m, m] float32, probabilities in the box
    heat_maps: Array  # [D, K, h, h] float32, the keypoints' logits in the box
    valid: Array  # [D] bool
    not_finite: Array | None = None  # [] int32, parts that computed NaN or infinity (`detection.finiteness`); 0: none
