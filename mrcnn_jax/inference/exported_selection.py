"""Selection of proposals and detections for an exported network in NumPy, with the results of the compiled programs.

Boxes are x0, y0, x1, y1 in pixels of the canvas, float32. Shapes: A anchors, R anchors per cell, P proposals, C classes
with background.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MAX_LOG_SCALE = math.log(1000.0 / 16.0)


def propose(
    logits: Sequence[np.ndarray],
    deltas: Sequence[np.ndarray],
    image_hw: np.ndarray,
    canvas: Sequence[int],
    description: dict[str, Any],
) -> np.ndarray:
    """Returns the best proposals [P, 4] of one image, P <= post_nms_top_n, from the RPN's outputs for each level.

    The logits are [A] and the deltas [A / R, 4 R]. On each level, the boxes with the pre_nms_top_n highest logits are
    decoded and clipped, and NMS is applied to them; levels are merged by score.
    """
    model, settings = description["model"], description["test"]
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for level, level_logits, level_deltas in zip(description["levels"], logits, deltas, strict=True):
        feature_hw = [-(-side // level["stride"]) for side in canvas]
        usable = np.flatnonzero(_find_inside(image_hw, feature_hw, level, model) & np.isfinite(level_logits))
        top = usable[find_largest(level_logits[usable], settings["pre_nms_top_n"])]
        cell, own = np.divmod(top, len(level["cell_anchors"]))
        places = np.stack(np.divmod(cell, feature_hw[1]), axis=-1)
        around = np.asarray(level["cell_anchors"], np.float32)[own]
        anchors = _anchor_centres(places, image_hw, level, model) + around
        chosen = level_deltas.reshape(len(level_logits), 4)[top]
        clipped = clip_boxes(decode_boxes(chosen, anchors, (1.0, 1.0, 1.0, 1.0)), image_hw)
        kept = is_nonempty(clipped, model["min_proposal_side"])
        found.append((clipped[kept], level_logits[top][kept]))
    boxes, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    groups = np.repeat(np.arange(len(found)), [len(rows) for rows, _ in found])
    if model["proposal_score"] == "probability":
        scores = np.float32(1.0) / (np.float32(1.0) + np.exp(-scores))
    best = suppress_overlaps(boxes, scores, groups, settings["rpn_nms_threshold"], settings["post_nms_top_n"])
    return boxes[best]


def select_detections(
    scores: np.ndarray,
    decode: Callable[[np.ndarray, np.ndarray], np.ndarray],
    image_hw: np.ndarray,
    settings: dict[str, Any],
) -> dict[str, np.ndarray]:
    """Returns boxes, scores and labels (1..C - 1) of the detections of one image, best first.

    `scores` [P, C] are probabilities of the proposals, and `decode` maps indices of proposals and labels to boxes. The
    max_candidates best pairs above the score threshold enter NMS, within each class.
    """
    flat = np.ascontiguousarray(scores[:, 1:]).reshape(-1)
    passing = np.flatnonzero(flat > np.float32(settings["score_threshold"]))
    top = passing[find_largest(flat[passing], settings["max_candidates"])]
    proposal, label = np.divmod(top, scores.shape[1] - 1)
    boxes = clip_boxes(decode(proposal, label + 1), image_hw)
    usable = is_nonempty(boxes, settings["min_detection_side"])
    boxes, top_scores, labels = boxes[usable], flat[top][usable], (label + 1)[usable]
    kept = suppress_overlaps(boxes, top_scores, labels, settings["nms_threshold"], settings["max_detections"])
    return {"boxes": boxes[kept], "scores": top_scores[kept], "labels": labels[kept].astype(np.int32)}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(axis=-1, keepdims=True)


def find_largest(values: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the largest float32 values in descending order; ties go to the lowest index.

    As in `jax.lax.top_k`, 0 is larger than -0. The values are finite.
    """
    bits = values.view(np.int32)
    keys = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # in the order of the values
    candidates = np.arange(len(keys))
    if len(keys) > count:
        candidates = np.flatnonzero(keys >= np.partition(keys, -count)[-count])  # more than `count` with ties
    return candidates[np.argsort(-keys[candidates], kind="stable")[:count]]


def suppress_overlaps(
    boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, iou_threshold: float, max_kept: int
) -> np.ndarray:
    """Returns the indices of the first boxes of greedy NMS within each group, by descending score."""
    order = np.argsort(-scores, kind="stable")
    is_kept = np.zeros(len(boxes), bool)
    for group in np.unique(groups):
        members = order[groups[order] == group]
        alive = np.ones(len(members), bool)
        for place, member in enumerate(members):
            if alive[place]:
                is_kept[member] = True
                later = members[place + 1 :]
                alive[place + 1 :] &= compute_iou(boxes[member], boxes[later]) <= np.float32(iou_threshold)
    return order[is_kept[order]][:max_kept]


def compute_iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of a box [4] with each of others [n, 4]; 0 where both are empty."""
    x0, y0, x1, y1 = box
    other_x0, other_y0, other_x1, other_y1 = others.T
    width = np.maximum(np.minimum(x1, other_x1) - np.maximum(x0, other_x0), 0)
    height = np.maximum(np.minimum(y1, other_y1) - np.maximum(y0, other_y0), 0)
    intersection = width * height
    union = (x1 - x0) * (y1 - y0) + (other_x1 - other_x0) * (other_y1 - other_y0) - intersection
    return np.where(union > 0, intersection / np.where(union > 0, union, np.float32(1.0)), np.float32(0.0))


def decode_boxes(deltas: np.ndarray, anchors: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Returns the anchors [n, 4] moved and scaled by deltas [n, 4], which are multiplied by the weights."""
    dx, dy, dw, dh = (deltas / np.asarray(weights, np.float32)).T
    x0, y0, x1, y1 = anchors.T
    width, height, half = x1 - x0, y1 - y0, np.float32(0.5)
    center_x, center_y = dx * width + (x0 + half * width), dy * height + (y0 + half * height)
    half_width = half * np.exp(np.minimum(dw, np.float32(MAX_LOG_SCALE))) * width
    half_height = half * np.exp(np.minimum(dh, np.float32(MAX_LOG_SCALE))) * height
    sides = [center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height]
    return np.stack(sides, axis=-1)


def clip_boxes(boxes: np.ndarray, image_hw: np.ndarray) -> np.ndarray:
    """Returns the boxes clipped to the image."""
    height, width = np.asarray(image_hw, np.float32)
    return np.clip(boxes, np.float32(0.0), np.array([width, height, width, height], np.float32))


def is_nonempty(boxes: np.ndarray, min_side: float) -> np.ndarray:
    """Returns whether both sides are positive and at least `min_side` pixels long."""
    shorter = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return (shorter > 0) & (shorter >= np.float32(min_side))


def _anchor_centres(
    places: np.ndarray, image_hw: np.ndarray, level: dict[str, Any], model: dict[str, Any]
) -> np.ndarray:
    """Returns x, y, x, y [n, 4] of the anchors' centres for rows and columns [n, 2] of a level."""
    stride_yx = np.full(2, level["stride"])
    if model["anchor_stride"] == "fitted":
        stride_yx = _padded(image_hw, model) // np.maximum(_count_cells(image_hw, level, model), 1)
    return (places * stride_yx)[:, [1, 0, 1, 0]].astype(np.float32)


def _find_inside(
    image_hw: np.ndarray, feature_hw: Sequence[int], level: dict[str, Any], model: dict[str, Any]
) -> np.ndarray:
    """Returns which of a level's anchors [A] lie in cells of the image."""
    cells = _count_cells(image_hw, level, model)
    rows, columns = (np.arange(length) < count for length, count in zip(feature_hw, cells, strict=True))
    return np.repeat((rows[:, None] & columns[None, :]).reshape(-1), len(level["cell_anchors"]))


def _count_cells(image_hw: np.ndarray, level: dict[str, Any], model: dict[str, Any]) -> np.ndarray:
    return -(-_padded(image_hw, model) // level["stride"])


def _padded(image_hw: np.ndarray, model: dict[str, Any]) -> np.ndarray:
    return -(-np.asarray(image_hw) // model["size_divisor"]) * model["size_divisor"]
