"""Resizing, padding to a canvas and horizontal flips of images and their boxes and keypoints.

Shapes: H, W image; G objects; M bitmap side. Sizes are (height, width), boxes x0, y0, x1, y1 in pixels.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from mrcnn_jax.categories import Category, keypoint_names
from mrcnn_jax.config import Canvas, ModelConfig
from mrcnn_jax.data.images import ImageHW

Resize = Literal["opencv", "pillow", "float"]
Rounding = Literal["nearest", "floor"]


def scale_size(image_hw: ImageHW, scale: float, rounding: Rounding = "nearest") -> ImageHW:
    """Returns the size times `scale` in whole pixels, at least 1."""
    height, width = (max(1, int(side * scale + (0.5 if rounding == "nearest" else 0.0))) for side in image_hw)
    return height, width


def fit_size(
    image_hw: ImageHW, short_side: int, max_side: int, canvases: Sequence[Canvas], rounding: Rounding = "nearest"
) -> tuple[ImageHW, Canvas]:
    """Returns the size to which an image is resized, and the canvas to which it is padded.

    The short side becomes `short_side` unless the long side would exceed `max_side`. The canvas is the one with the
    smallest area among those that hold this size. If none does, the image is scaled down further, to fit the canvas in
    which it stays largest. Ties go to the first canvas.
    """
    height, width = image_hw
    scale = min(short_side / min(image_hw), max_side / max(image_hw))
    new_hw = scale_size(image_hw, scale, rounding)
    fitting = [canvas for canvas in canvases if new_hw[0] <= canvas[0] and new_hw[1] <= canvas[1]]
    if fitting:
        return new_hw, min(fitting, key=lambda canvas: canvas[0] * canvas[1])
    scales = [min(canvas[0] / height, canvas[1] / width) for canvas in canvases]
    best = int(np.argmax(scales))
    return scale_size(image_hw, scales[best], rounding), canvases[best]


def resize_image(image: np.ndarray, new_hw: ImageHW, method: Resize = "opencv") -> np.ndarray:
    """Returns the image [H, W, 3] uint8 resized bilinearly to `new_hw`, as uint8, or as float32 for "float".

    "opencv" averages areas if a side shrinks by more than 2, "pillow" antialiases, and "float" does neither.
    """
    import cv2

    if method == "float":
        return _resize_float(image.astype(np.float32), new_hw)
    if image.shape[:2] == tuple(new_hw):
        return image
    if method == "pillow":
        from PIL import Image

        return np.asarray(Image.fromarray(image).resize(new_hw[::-1], Image.Resampling.BILINEAR))
    shrinks = max(image.shape[0] / new_hw[0], image.shape[1] / new_hw[1]) > 2
    resized = cv2.resize(image, new_hw[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _resize_float(image: np.ndarray, new_hw: ImageHW) -> np.ndarray:
    """Returns the float32 image resized to `new_hw`, with PyTorch's rounding of positions.

    OpenCV's float weights differ enough to swap detections of almost equal score.
    """
    for axis, length in ((1, new_hw[1]), (0, new_hw[0])):
        size = image.shape[axis]
        scale = np.float32(size / length)
        position = np.maximum(scale * (np.arange(length, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
        low = position.astype(np.int64)
        high = np.minimum(low + 1, size - 1)
        weight = np.expand_dims((position - low).astype(np.float32), (1, 2) if axis == 0 else (0, 2))
        image = np.take(image, low, axis) * (1 - weight) + np.take(image, high, axis) * weight
    return image


def pad_to_canvas(image: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Returns the image [H, W, 3] uint8 at the top left of a canvas of zeros. Raises ValueError if it does not fit."""
    height, width = image.shape[:2]
    if height > canvas[0] or width > canvas[1]:
        raise ValueError(f"Expected an image of at most {canvas[0]}x{canvas[1]}, got {height}x{width}.")
    padded = np.zeros((*canvas, 3), np.uint8)
    padded[:height, :width] = image
    return padded


def resize_boxes(boxes: np.ndarray, old_hw: ImageHW, new_hw: ImageHW) -> np.ndarray:
    """Returns the boxes [G, 4] of an image after its resize from `old_hw` to `new_hw`, float32."""
    scale_y, scale_x = new_hw[0] / old_hw[0], new_hw[1] / old_hw[1]
    return (np.asarray(boxes, np.float64) * (scale_x, scale_y, scale_x, scale_y)).astype(np.float32)


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Returns the boxes [G, 4] of an image of this width after its horizontal flip."""
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
    return np.stack([width - x1, y0, width - x0, y1], axis=-1)


def resize_keypoints(keypoints: np.ndarray, old_hw: ImageHW, new_hw: ImageHW) -> np.ndarray:
    """Returns the keypoints [K, 3] (x, y, visibility) of an image after its resize from `old_hw` to `new_hw`, float32.

    COCO keypoints are pixel indices; in the continuous frame of boxes, the pixel's centre is half a pixel further.
    """
    scale_y, scale_x = new_hw[0] / old_hw[0], new_hw[1] / old_hw[1]
    x, y, visibility = np.moveaxis(np.asarray(keypoints, np.float64), -1, 0)
    resized = np.stack([(x + 0.5) * scale_x, (y + 0.5) * scale_y, visibility], axis=-1)
    return np.where(visibility[:, None] > 0, resized, 0.0).astype(np.float32)


def flip_keypoints(keypoints: np.ndarray, width: int, keypoint_flip: Sequence[int]) -> np.ndarray:
    """Returns the keypoints [K, 3] of an image of this width after its horizontal flip, with left and right swapped."""
    x, y, visibility = np.moveaxis(keypoints[list(keypoint_flip)], -1, 0)
    return np.stack([np.where(visibility > 0, width - x, 0.0), y, visibility], axis=-1).astype(np.float32)


def with_keypoint_flip(model_config: ModelConfig, categories: Sequence[Category]) -> ModelConfig:
    """Returns the config, with an empty `keypoint_flip` derived from the names of the categories' keypoints."""
    if not model_config.num_keypoints or model_config.keypoint_flip:
        return model_config
    return replace(model_config, keypoint_flip=find_keypoint_flip(keypoint_names(categories)))


def find_keypoint_flip(names: Sequence[str]) -> tuple[int, ...]:
    """Returns the index of each keypoint's counterpart on the other side, found by swapping left and right in its name.

    A keypoint without a counterpart, or with a name that occurs twice, maps to itself.
    """
    swap = {"left": "right", "right": "left"}
    names = [name.lower() for name in names]
    other = [re.sub("left|right", lambda match: swap[match[0]], name) for name in names]
    once = {name for name in names if list(names).count(name) == 1}
    return tuple(list(names).index(name) if {name, names[index]} <= once else index for index, name in enumerate(other))
