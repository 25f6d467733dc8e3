"""Checks of the losses of one image and their gradients, with invalid rows that contain NaN."""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from mrcnn_jax.ops import losses
from mrcnn_jax.selftest.box_checks import WEIGHTS, draw_boxes
from mrcnn_jax.selftest.findings import FLOAT32, Finding, Setting, random_of, relative_error, shape_text

CLASSES, KEYPOINTS, HEAT_MAP, MASK = 81, 17, 56, 28


def check_losses(setting: Setting) -> Iterator[Finding]:
    """Compares the value and gradient of each loss with their formulas."""
    yield from _check_classification(setting)
    yield from _check_boxes(setting)
    yield from _check_masks(setting)


def _compare(
    name: str, loss: Callable[..., jax.Array], inputs: tuple[np.ndarray, ...], value: float, gradient: np.ndarray
) -> Iterator[Finding]:
    """Compares a loss of inputs, the first of which are logits. All are arguments, as XLA folds constants slowly."""
    logits = inputs[0]
    found = jax.jit(jax.value_and_grad(loss))(*inputs)
    size = shape_text(*logits.shape)
    yield Finding(f"{name} loss", size, relative_error(found[0], value), FLOAT32)
    yield Finding(f"{name} loss: gradient", size, relative_error(found[1], gradient), FLOAT32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray, valid: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the mean cross-entropy over the valid rows of logits [n, C], and its gradient."""
    scores, rows = _softmax(np.where(valid[:, None], logits, 0.0).astype(np.float64)), np.arange(len(labels))
    value = -np.log(scores[rows, labels])[valid].mean()
    scores[rows, labels] -= 1
    return float(value), scores * valid[:, None] / valid.sum()


def _check_classification(setting: Setting) -> Iterator[Finding]:
    rng = random_of("classification")
    count = setting.num_rois
    valid = rng.random(count) < 0.8

    def draw(*shape: int) -> np.ndarray:
        values = (3 * rng.standard_normal((count, *shape))).astype(np.float32)
        values[~valid] = np.nan
        return values

    logits, labels = draw(CLASSES), rng.integers(0, CLASSES, count).astype(np.int32)
    expected = _cross_entropy(logits, labels, valid)
    yield from _compare("class", losses.class_loss, (logits, labels, valid), *expected)

    logits, foreground = draw(), rng.random(count) < 0.5
    score = 1 / (1 + np.exp(-np.where(valid, logits, 0.0).astype(np.float64)))
    value = -np.log(np.where(foreground, score, 1 - score))[valid].mean()
    gradient = (score - foreground) * valid / valid.sum()
    yield from _compare("objectness", losses.objectness_loss, (logits, foreground, valid), float(value), gradient)

    heat = rng.standard_normal((count // 8, KEYPOINTS, HEAT_MAP, HEAT_MAP)).astype(np.float32)
    visible = rng.random((count // 8, KEYPOINTS)) < 0.7
    cells = rng.integers(0, HEAT_MAP**2, visible.shape).astype(np.int32)
    value, gradient = _cross_entropy(heat.reshape(-1, HEAT_MAP**2), cells.ravel(), visible.ravel())
    gradient = gradient.reshape(heat.shape)
    yield from _compare("keypoint", losses.keypoint_loss, (heat, cells, visible), value, gradient)


def _check_boxes(setting: Setting) -> Iterator[Finding]:
    rng = random_of("box losses")
    count, beta = setting.num_rois, 1 / 9
    valid, foreground = rng.random(count) < 0.8, rng.random(count) < 0.4
    counted = (valid & foreground)[:, None]
    deltas, targets = (rng.standard_normal((count, 4)).astype(np.float32) for _ in range(2))
    difference = np.where(counted, deltas.astype(np.float64) - targets, 0.0)
    small = np.abs(difference) < beta
    value = np.where(small, difference**2 / 2 / beta, np.abs(difference) - beta / 2)[counted[:, 0]].sum() / valid.sum()
    gradient = np.where(small, difference / beta, np.sign(difference)) / valid.sum()
    deltas[~counted[:, 0]] = np.nan
    loss = functools.partial(losses.box_loss, beta=beta)
    yield from _compare("box", loss, (deltas, targets, foreground, valid), float(value), gradient)

    rois = draw_boxes(rng, setting.canvas, count)
    first, second = (_decode(part, rois) for part in (np.where(counted, deltas, 0.0), targets))
    value = (1 - _giou(first, second))[counted[:, 0]].sum() / valid.sum()
    loss = functools.partial(losses.giou_loss, weights=WEIGHTS)
    found = jax.jit(loss)(deltas, targets, rois, foreground, valid)
    yield Finding("GIoU loss", shape_text(*deltas.shape), relative_error(found, value), FLOAT32)


def _decode(deltas: np.ndarray, rois: np.ndarray) -> np.ndarray:
    scaled, boxes = deltas.astype(np.float64) / WEIGHTS, rois.astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    center = boxes[:, :2] + sides / 2 + scaled[:, :2] * sides
    half = sides * np.exp(scaled[:, 2:]) / 2
    return np.concatenate([center - half, center + half], axis=1)


def _giou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    def area(corners: np.ndarray) -> np.ndarray:
        return np.clip(corners[:, 2:] - corners[:, :2], 0, None).prod(axis=1)

    low, high = np.minimum(boxes, others), np.maximum(boxes, others)
    overlap = area(np.concatenate([high[:, :2], low[:, 2:]], axis=1))
    union = area(boxes) + area(others) - overlap
    hull = area(np.concatenate([low[:, :2], high[:, 2:]], axis=1))
    return overlap / union - (hull - union) / hull


def _check_masks(setting: Setting) -> Iterator[Finding]:
    rng = random_of("mask loss")
    count = setting.num_rois // 4
    foreground = rng.random(count) < 0.6
    logits = (3 * rng.standard_normal((count, MASK, MASK))).astype(np.float32)
    targets = (rng.random(logits.shape) < 0.4).astype(np.float32)
    score = 1 / (1 + np.exp(-logits.astype(np.float64)))
    cells = -np.log(np.where(targets > 0, score, 1 - score)).mean(axis=(1, 2))
    gradient = (score - targets) * foreground[:, None, None] / foreground.sum() / MASK**2
    logits[~foreground] = np.nan
    value = float(cells[foreground].mean())
    yield from _compare("mask", losses.mask_loss, (logits, targets, foreground), value, gradient)
