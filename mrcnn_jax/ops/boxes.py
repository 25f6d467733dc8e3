"""Boxes: area, IoU, clipping, and the (dx, dy, dw, dh) parametrisation of Faster R-CNN.

Boxes are x0, y0, x1, y1 in pixels, float32, half-open (width = x1 - x0). All results and their gradients are finite for
finite boxes, including boxes of zero area. Shapes: n, m boxes.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MAX_LOG_SCALE = math.log(1000.0 / 16.0)
"""Upper bound on dw and dh in `decode_boxes`: exp of it scales a 16 px anchor to 1000 px (Detectron's clamp)."""


def split_boxes(boxes: Float[Array, "*n 4"]) -> tuple[Array, Array, Array, Array]:
    """Returns x0, y0, x1, y1, each `[*n]`."""
    x0, y0, x1, y1 = (jax.lax.squeeze(side, [-1]) for side in jax.lax.split(boxes, [1] * 4, axis=boxes.ndim - 1))
    return x0, y0, x1, y1


def box_sides(boxes: Float[Array, "*n 4"]) -> tuple[Array, Array]:
    """Returns width and height, each `[*n]`."""
    x0, y0, x1, y1 = split_boxes(boxes)
    return x1 - x0, y1 - y0


def box_areas(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Returns width times height in square pixels."""
    width, height = box_sides(boxes)
    return width * height


def compute_iou(boxes: Float[Array, "n 4"], others: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Returns the pairwise intersection over union, in [0, 1]; 0 where both boxes are empty."""
    x0, y0, x1, y1 = split_boxes(boxes[:, None, :])
    other_x0, other_y0, other_x1, other_y1 = split_boxes(others[None, :, :])
    width = jnp.maximum(jnp.minimum(x1, other_x1) - jnp.maximum(x0, other_x0), 0.0)  # [n, m]
    height = jnp.maximum(jnp.minimum(y1, other_y1) - jnp.maximum(y0, other_y0), 0.0)
    intersection = width * height
    union = (x1 - x0) * (y1 - y0) + (other_x1 - other_x0) * (other_y1 - other_y0) - intersection
    return jnp.where(union > 0.0, intersection / jnp.where(union > 0.0, union, 1.0), 0.0)


def compute_giou(boxes: Float[Array, "n 4"], others: Float[Array, "n 4"]) -> Float[Array, "n"]:
    """Returns the generalised IoU of each pair of boxes, in [-1, 1] (arXiv 1902.09630).

    This is the IoU minus the share of the smallest enclosing box that neither box covers. It is 0 if the enclosing box
    has no area.
    """
    x0, y0, x1, y1 = split_boxes(boxes)
    other_x0, other_y0, other_x1, other_y1 = split_boxes(others)
    width = jnp.maximum(jnp.minimum(x1, other_x1) - jnp.maximum(x0, other_x0), 0.0)
    height = jnp.maximum(jnp.minimum(y1, other_y1) - jnp.maximum(y0, other_y0), 0.0)
    intersection = width * height
    union = (x1 - x0) * (y1 - y0) + (other_x1 - other_x0) * (other_y1 - other_y0) - intersection
    hull_width = jnp.maximum(x1, other_x1) - jnp.minimum(x0, other_x0)
    hull_height = jnp.maximum(y1, other_y1) - jnp.minimum(y0, other_y0)
    hull = hull_width * hull_height
    iou = jnp.where(union > 0.0, intersection / jnp.where(union > 0.0, union, 1.0), 0.0)
    return iou - jnp.where(hull > 0.0, (hull - union) / jnp.where(hull > 0.0, hull, 1.0), 0.0)


def encode_boxes(
    boxes: Float[Array, "n 4"], anchors: Float[Array, "n 4"], weights: tuple[float, float, float, float]
) -> Float[Array, "n 4"]:
    """Returns the deltas that turn each anchor into its box (R-CNN, appendix C), times `weights`.

    Sides are clamped to at least 1e-3 px, so that padded rows stay finite; callers mask these rows.
    """
    x0, y0, x1, y1 = split_boxes(anchors)
    box_x0, box_y0, box_x1, box_y1 = split_boxes(boxes)
    width, height = jnp.maximum(x1 - x0, 1e-3), jnp.maximum(y1 - y0, 1e-3)
    box_width, box_height = jnp.maximum(box_x1 - box_x0, 1e-3), jnp.maximum(box_y1 - box_y0, 1e-3)
    dx = ((box_x0 + 0.5 * box_width) - (x0 + 0.5 * width)) / width
    dy = ((box_y0 + 0.5 * box_height) - (y0 + 0.5 * height)) / height
    deltas = (dx, dy, jnp.log(box_width / width), jnp.log(box_height / height))
    return jnp.stack([delta * weight for delta, weight in zip(deltas, weights, strict=True)], axis=-1)


def decode_boxes(
    deltas: Float[Array, "*n 4"], anchors: Float[Array, "*n 4"], weights: tuple[float, float, float, float]
) -> Float[Array, "*n 4"]:
    """Returns the anchors transformed by `deltas`, which are scaled by `weights`; dw and dh are clamped from above."""
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(split_boxes(deltas), weights, strict=True))
    x0, y0, x1, y1 = split_boxes(anchors)
    width, height = x1 - x0, y1 - y0
    center_x = dx * width + (x0 + 0.5 * width)
    center_y = dy * height + (y0 + 0.5 * height)
    half_width = 0.5 * jnp.exp(jnp.minimum(dw, MAX_LOG_SCALE)) * width
    half_height = 0.5 * jnp.exp(jnp.minimum(dh, MAX_LOG_SCALE)) * height
    return jnp.stack(
        [center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height], axis=-1
    )


def clip_boxes(boxes: Float[Array, "*n 4"], image_hw: Int[Array, "2"]) -> Float[Array, "*n 4"]:
    """Returns the boxes clipped to the image."""
    height, width = image_hw[0].astype(jnp.float32), image_hw[1].astype(jnp.float32)
    x0, y0, x1, y1 = split_boxes(boxes)
    x0, x1 = jnp.clip(x0, 0.0, width), jnp.clip(x1, 0.0, width)
    y0, y1 = jnp.clip(y0, 0.0, height), jnp.clip(y1, 0.0, height)
    return jnp.stack([x0, y0, x1, y1], axis=-1)


def is_nonempty(boxes: Float[Array, "*n 4"], min_side: float = 0.0) -> Bool[Array, "*n"]:
    """Returns whether both sides are positive and at least `min_side` pixels long; False for boxes with NaN."""
    width, height = box_sides(boxes)
    shorter = jnp.minimum(width, height)
    return (shorter > 0.0) & (shorter >= min_side)
