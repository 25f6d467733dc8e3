"""Detections of an exported model in pixels of the image: boxes, pasted masks, decoded keypoints (NumPy).

Shapes: D detection slots, n kept detections, m mask side, K keypoints, h heat-map side, H x W image.
"""

from typing import Any

import numpy as np

from mrcnn_jax.inference.exported_inputs import combine
from mrcnn_jax.inference.paste_masks import paste_masks


def is_finite(outputs: dict[str, np.ndarray]) -> bool:
    """Returns whether the network computed neither NaN nor infinity for one image."""
    rows = (values[outputs["valid"]] for values in outputs.values() if values.ndim)
    return not outputs["not_finite"] and all(np.isfinite(values).all() for values in rows)


def restore(
    outputs: dict[str, np.ndarray],
    resized_hw: np.ndarray,
    image_hw: tuple[int, ...],
    description: dict[str, Any],
    masks: str,
) -> dict[str, np.ndarray]:
    """Returns the detections of one image, best first, in pixels of the image and category ids of the data set.

    They are boxes [n, 4], scores [n], labels [n], and, if the model has these heads, masks and keypoints [n, K, 3] (x,
    y, score). Masks are bool [n, H, W] with `masks` "full", else probabilities [n, m, m] that cover their boxes.
    """
    height, width = image_hw
    settings, valid = description["test"], outputs["valid"]
    found = {name: outputs[name][valid] for name in ("boxes", "scores", "labels", "masks", "heat_maps")}
    scale_y, scale_x = height / int(resized_hw[0]), width / int(resized_hw[1])
    keypoints = decode_keypoints(found.pop("heat_maps"), found["boxes"], settings["keypoint_score"])
    found["keypoints"] = (keypoints * [scale_x, scale_y, 1.0]).astype(np.float32)
    boxes = found["boxes"].astype(np.float64) * [scale_x, scale_y, scale_x, scale_y]
    found["boxes"] = np.clip(boxes, 0.0, [width, height, width, height]).astype(np.float32)
    found["labels"] = np.array([0, *(category["id"] for category in description["categories"])], np.int64)[
        found["labels"]
    ]
    x0, y0, x1, y1 = found["boxes"].T
    found = {name: values[(x1 > x0) & (y1 > y0)] for name, values in found.items()}
    if masks == "full" and found["masks"].shape[-1]:
        paste = settings["mask_threshold"], settings["mask_paste"]
        found["masks"] = paste_masks(found["masks"], found["boxes"], (height, width), *paste)
    heads = {"masks": outputs["masks"].shape[-1], "keypoints": outputs["heat_maps"].shape[-1]}
    return {name: values for name, values in found.items() if heads.get(name, True)}


def decode_keypoints(heat_maps: np.ndarray, boxes: np.ndarray, score: str) -> np.ndarray:
    """Returns keypoints [n, K, 3] float32: x and y in pixels of the boxes [n, 4], and a score.

    The logits [n, K, h, h] are resized bicubically to the box in whole pixels; the keypoint is at the largest value.
    """
    keypoints = np.zeros((*heat_maps.shape[:2], 3), np.float32)
    if not keypoints.size:
        return keypoints
    for found, maps, box in zip(keypoints, heat_maps, np.asarray(boxes, np.float32), strict=True):
        sides = np.maximum(box[2:] - box[:2], np.float32(1.0))  # width, height
        width, height = np.ceil(sides).astype(int).tolist()
        resized = combine(combine(maps, _cubic_taps(maps.shape[2], width), 2), _cubic_taps(maps.shape[1], height), 1)
        flat = resized.reshape(len(maps), -1)
        best = flat.argmax(axis=1)
        cells = np.stack([best % width, best // width], axis=-1).astype(np.float32)
        found[:, :2] = (cells + np.float32(0.5)) * (sides / np.array([width, height], np.float32)) + box[:2]
        top = flat[np.arange(len(maps)), best]
        if score == "softmax":
            top = 1 / np.exp(maps.reshape(len(maps), -1) - top[:, None]).sum(axis=1)
        found[:, 2] = top
    return keypoints


def _cubic_taps(size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the taps of OpenCV's INTER_CUBIC: slope -0.75 at distance 1, borders repeated."""
    one, slope = np.float32(1.0), np.float32(-0.75)
    position = ((np.arange(length) + 0.5) * (1.0 / (length / size)) - 0.5).astype(np.float32)
    low = np.floor(position).astype(np.int64)
    x = position - low.astype(np.float32)
    before = ((slope * (x + one) - 5 * slope) * (x + one) + 8 * slope) * (x + one) - 4 * slope
    at = ((slope + 2) * x - (slope + 3)) * x * x + one
    after = ((slope + 2) * (one - x) - (slope + 3)) * (one - x) * (one - x) + one
    index = np.clip(low[:, None] + np.arange(-1, 3), 0, size - 1)
    return index, np.stack([before, at, after, one - before - at - after], axis=1)
