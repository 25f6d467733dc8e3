"""Checks of boxes and selections among them: deltas, IoU, matching, NMS, sorting and top-k, with ties."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.ops import boxes as box_ops
from mrcnn_jax.ops import matching, nms
from mrcnn_jax.selftest.findings import ELEMENTWISE, EXACT, Finding, Setting, random_of, relative_error

ROUNDING = 1e-5
"""IoUs that differ by less are treated as equal, unless they are of the same boxes."""
WEIGHTS = (10.0, 8.0, 5.0, 4.0)
"""Weights of deltas, all different, so that swaps are detected."""


def draw_boxes(rng: np.random.Generator, canvas: tuple[int, int], count: int, longest: int = 200) -> np.ndarray:
    """Returns [n, 4] float32 boxes with integer corners, so that areas and intersections are exact in float32."""
    height, width = canvas
    corners = np.stack([rng.integers(0, width, count), rng.integers(0, height, count)], axis=1)
    return np.concatenate([corners, corners + rng.integers(4, longest, (count, 2))], axis=1).astype(np.float32)


def iou_in_float64(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns IoUs [n, m]."""
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
    areas = [(part[..., 2] - part[..., 0]) * (part[..., 3] - part[..., 1]) for part in (a, b)]
    return overlap / (areas[0] + areas[1] - overlap)


def check_deltas(setting: Setting) -> Iterator[Finding]:
    """Checks the encoding and decoding of boxes (R-CNN, appendix C), and clipping."""
    rng = random_of("deltas")
    count = 2000
    anchors, boxes = (draw_boxes(rng, setting.canvas, count) for _ in range(2))
    deltas = (rng.standard_normal((count, 4)) * 2).astype(np.float32)
    a, b, d = (part.astype(np.float64) for part in (anchors, boxes, deltas / np.float32(1)))
    size_a, size_b = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    center_a, center_b = a[:, :2] + size_a / 2, b[:, :2] + size_b / 2
    encoded = np.concatenate([(center_b - center_a) / size_a, np.log(size_b / size_a)], axis=1) * WEIGHTS
    scaled = d / WEIGHTS
    center = center_a + scaled[:, :2] * size_a
    half = size_a * np.minimum(np.exp(scaled[:, 2:]), 1000 / 16) / 2
    decoded = np.concatenate([center - half, center + half], axis=1)
    height, width = setting.canvas
    clipped = np.clip(decoded, 0, [width, height, width, height])

    def run(boxes: jax.Array, anchors: jax.Array, deltas: jax.Array, image_hw: jax.Array) -> tuple[jax.Array, ...]:
        found = box_ops.decode_boxes(deltas, anchors, WEIGHTS)
        return box_ops.encode_boxes(boxes, anchors, WEIGHTS), found, box_ops.clip_boxes(found, image_hw)

    found = jax.jit(run)(boxes, anchors, deltas, np.asarray(setting.canvas, np.int32))
    names = ("box deltas: encode", "box deltas: decode", "boxes: clip")
    for name, value, expected in zip(names, found, (encoded, decoded, clipped), strict=True):
        yield Finding(name, f"{count} boxes", relative_error(value, expected), ELEMENTWISE)


def check_matching(setting: Setting) -> Iterator[Finding]:
    """Checks IoU and matching. Ties go to the object in the lowest slot, which is tested with repeated boxes."""
    rng = random_of("matching")
    height, width = setting.map_hw(8)
    anchors = draw_boxes(rng, setting.canvas, 3 * height * width)
    objects = draw_boxes(rng, setting.canvas, setting.num_slots)
    objects[1::3] = objects[0 : len(objects[1::3]) * 3 : 3]  # repeated
    anchors[: 2 * len(objects) : 2] = objects
    iou = iou_in_float64(anchors, objects)
    size = f"{len(anchors)} by {len(objects)} boxes"

    def run(anchors: jax.Array, objects: jax.Array) -> tuple[jax.Array, ...]:
        matches = matching.match_boxes(
            anchors,
            jnp.ones(len(anchors), bool),
            objects,
            jnp.ones(len(objects), bool),
            foreground_iou=0.7,
            background_iou=0.3,
            allow_low_quality=True,
        )
        return box_ops.compute_iou(anchors, objects), matches.states, matches.matched_gt

    found_iou, states, matched = (np.asarray(part) for part in jax.jit(run)(anchors, objects))
    yield Finding("IoU", size, float(np.abs(found_iou - iou).max()), ELEMENTWISE)

    best, best_of_object = iou.max(axis=1), iou.max(axis=0)
    first = np.array([np.flatnonzero((objects == box).all(axis=1))[0] for box in objects])
    # Any object within rounding of the best is accepted; of equal ones, only the first.
    right = (iou[np.arange(len(iou)), matched] >= best - ROUNDING) & ((first[matched] == matched) | (best == 0))
    short = best_of_object - iou
    ties = ((short == 0) & (best_of_object > 0)).any(axis=1)
    unclear = ((short > 0) & (short < ROUNDING)).any(axis=1)
    for threshold in (0.3, 0.7):
        unclear |= np.abs(best - threshold) < ROUNDING
    expected = np.where(ties | (best >= 0.7), 2, np.where(best < 0.3, 1, 0))
    yield Finding("matching: objects", size, float((~right).sum()), EXACT)
    yield Finding("matching: states", size, float(((states != expected) & ~unclear).sum()), EXACT)


def check_nms(setting: Setting) -> Iterator[Finding]:
    """Checks greedy NMS of proposals on five levels; of equal scores, the lower index comes first."""
    rng = random_of("NMS")
    count, max_kept = 9 * setting.num_rois, 2 * setting.num_rois
    height, width = setting.canvas
    boxes = draw_boxes(rng, (height // 3, width // 3), count)
    scores = (rng.integers(0, 200, count) / 256).astype(np.float32)  # most of them tie
    groups, valid = rng.integers(0, 5, count).astype(np.int32), rng.random(count) < 0.9
    threshold = 0.5003  # no IoU is close to it

    def run(boxes: jax.Array, scores: jax.Array, valid: jax.Array, groups: jax.Array) -> nms.Kept:
        return nms.suppress_overlaps(boxes, scores, valid, groups, iou_threshold=threshold, max_kept=max_kept)

    kept = jax.jit(run)(boxes, scores, valid, groups)
    expected = greedy(boxes, scores, valid, groups, threshold)[:max_kept]
    found = np.asarray(kept.indices)[np.asarray(kept.valid)]
    length = max(len(found), len(expected))
    padded = [np.pad(np.asarray(part), (0, length - len(part)), constant_values=-1) for part in (found, expected)]
    yield Finding("NMS, with ties", f"{count} boxes", float((padded[0] != padded[1]).sum()), EXACT)


def greedy(boxes: np.ndarray, scores: np.ndarray, valid: np.ndarray, groups: np.ndarray, threshold: float) -> list[int]:
    """Returns the indices of the boxes that greedy NMS keeps, best first."""
    alive, kept = valid.copy(), []
    for index in np.lexsort((np.arange(len(scores)), -scores)):
        if alive[index]:
            kept.append(int(index))
            overlaps = iou_in_float64(boxes[index : index + 1], boxes)[0] > threshold
            alive &= ~(overlaps & (groups == groups[index]))
    return kept


def check_top_k(setting: Setting) -> Iterator[Finding]:
    """Checks jax.lax.top_k and a stable argsort: of equal values, the lower index comes first."""
    rng = random_of("top k")
    height, width = setting.map_hw(4)
    scores = (rng.integers(0, 1000, 3 * height * width) / 1024).astype(np.float32)
    count = min(1000, len(scores))
    expected = np.argsort(-scores, kind="stable")
    values, top = (np.asarray(part) for part in jax.jit(lambda x: jax.lax.top_k(x, count))(scores))
    wrong = (top != expected[:count]) | (values != scores[expected[:count]])
    yield Finding("top-k, with ties", f"{count} of {len(scores)}", float(wrong.sum()), EXACT)
    order = np.asarray(jax.jit(lambda x: jnp.argsort(-x, stable=True))(scores))
    yield Finding("stable argsort, with ties", str(len(scores)), float((order != expected).sum()), EXACT)
