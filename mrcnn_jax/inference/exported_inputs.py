"""Resizing of images for an exported model in NumPy, with the bytes of OpenCV and the floats of PyTorch.

Shapes: H x W image, L output cells along an axis, k input cells of each.
"""

import math
from typing import Any

import numpy as np

Taps = tuple[np.ndarray, np.ndarray]
"""For each of L output cells: indices of input cells [L, k], and their weights [L, k]."""


def fit_size(image_hw: tuple[int, ...], settings: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the size to which an image is resized, and the smallest canvas that holds it."""
    extra = 0.5 if settings["size_rounding"] == "nearest" else 0.0

    def scaled(scale: float) -> tuple[int, int]:
        height, width = (max(1, int(side * scale + extra)) for side in image_hw)
        return height, width

    canvases = [(height, width) for height, width in settings["canvases"]]
    new = scaled(min(settings["short_side"] / min(image_hw), settings["max_side"] / max(image_hw)))
    fitting = [canvas for canvas in canvases if new[0] <= canvas[0] and new[1] <= canvas[1]]
    if fitting:
        return new, min(fitting, key=lambda canvas: canvas[0] * canvas[1])
    scales = [min(canvas[0] / image_hw[0], canvas[1] / image_hw[1]) for canvas in canvases]
    best = int(np.argmax(scales))
    return scaled(scales[best]), canvases[best]


def resize(image: np.ndarray, new_hw: tuple[int, int], method: str) -> np.ndarray:
    """Returns the image [H, W, 3] uint8 resized bilinearly, as uint8, or as float32 for the method "float"."""
    (height, width), (new_height, new_width) = image.shape[:2], new_hw
    if method == "float":
        across, down = _float_taps(width, new_width), _float_taps(height, new_height)
        return combine(combine(image.astype(np.float32), across, 1), down, 0)
    if (height, width) == tuple(new_hw):
        return image
    if method == "pillow":
        from PIL import Image  # releases of Pillow differ in the order of the two axes, which rounding depends on

        return np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
    if max(height / new_height, width / new_width) <= 2:
        return _resize_linear(image, new_hw)
    if height % new_height == width % new_width == 0:
        cells = image.reshape(new_height, height // new_height, new_width, width // new_width, 3)
        total = cells.sum(axis=(1, 3), dtype=np.int64).astype(np.float32)
        area = np.float32(1.0 / (height // new_height * (width // new_width)))
        return np.clip(np.rint(total * area), 0, 255).astype(np.uint8)
    rows = combine(image.astype(np.float32), _area_taps(width, new_width), 1)
    return np.clip(np.rint(combine(rows, _area_taps(height, new_height), 0)), 0, 255).astype(np.uint8)


def combine(values: np.ndarray, taps: Taps, axis: int) -> np.ndarray:
    """Returns the weighted sums of cells along an axis, added in the order of the taps, in the type of the values."""
    index, weights = taps
    shape = [1] * values.ndim
    shape[axis] = len(index)
    total = np.take(values, index[:, 0], axis) * weights[:, 0].reshape(shape)
    for tap in range(1, index.shape[1]):
        total += np.take(values, index[:, tap], axis) * weights[:, tap].reshape(shape)
    return total


def _resize_linear(image: np.ndarray, new_hw: tuple[int, int]) -> np.ndarray:
    """Returns OpenCV's INTER_LINEAR, which has weights of 11 bits and drops four bits between the passes."""
    across, x = _linear_taps(image.shape[1], new_hw[1])
    down, _ = _linear_taps(image.shape[0], new_hw[0])
    is_outside = (x < 0) | (x >= image.shape[1] - 1)  # here alone, OpenCV clips the weights, too
    across[1][is_outside] = [2048, 0]
    across = np.clip(across[0], 0, image.shape[1] - 1), across[1]
    rows = combine(image.astype(np.int32), across, 1) >> 4
    index, weights = np.clip(down[0], 0, image.shape[0] - 1), down[1]
    parts = [(rows[index[:, tap]] * weights[:, tap, None, None]) >> 16 for tap in (0, 1)]
    return np.clip((parts[0] + parts[1] + 2) >> 2, 0, 255).astype(np.uint8)


def _linear_taps(size: int, length: int) -> tuple[Taps, np.ndarray]:
    """Returns unclipped taps with integer weights of 11 bits, and the first cell of each."""
    position = ((np.arange(length) + 0.5) * (1.0 / (length / size)) - 0.5).astype(np.float32)
    low = np.floor(position).astype(np.int64)
    weight = position - low.astype(np.float32)
    weights = np.stack([np.float32(1.0) - weight, weight], axis=1)
    return (np.stack([low, low + 1], axis=1), np.rint(weights * np.float32(2048)).astype(np.int32)), low


def _area_taps(size: int, length: int) -> Taps:
    """Returns the taps of OpenCV's INTER_AREA: cells by the share of the output cell that they cover."""
    scale = size / length
    taps = np.zeros((length, math.ceil(scale) + 2), np.int64), np.zeros((length, math.ceil(scale) + 2), np.float32)
    for cell in range(length):
        start, stop = cell * scale, cell * scale + scale
        covered = min(scale, size - start)
        last = min(math.floor(stop), size - 1)
        first = min(math.ceil(start), last)
        shares = [(first - 1, (first - start) / covered)] if first - start > 1e-3 else []
        shares += [(whole, 1.0 / covered) for whole in range(first, last)]
        shares += [(last, min(stop - last, 1.0, covered) / covered)] if stop - last > 1e-3 else []
        for tap, (index, share) in enumerate(shares):
            taps[0][cell, tap], taps[1][cell, tap] = index, share
    return taps


def _float_taps(size: int, length: int) -> Taps:
    """Returns bilinear taps in float32, with PyTorch's rounding of positions."""
    scale = np.float32(size / length)
    position = np.maximum(scale * (np.arange(length, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    low = position.astype(np.int64)
    weight = (position - low).astype(np.float32)
    return np.stack([low, np.minimum(low + 1, size - 1)], axis=1), np.stack([1 - weight, weight], axis=1)
