"""Batching of images of any size, with one canvas per batch, and prediction of batches to detections on the host.

Shapes: B images of a batch, H x W canvas.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from mrcnn_jax.config import Canvas, TestConfig
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.transforms import fit_size, resize_image
from mrcnn_jax.inference.augmentation import further_recipes
from mrcnn_jax.structures import Detections

PredictFn = Callable[..., Detections]
"""Maps images [B, H, W, 3] and image_hw int32 [B, 2] to batched Detections. Each further short side of the test config
adds an argument, a pair (images, image_hw)."""


@dataclass(frozen=True)
class PlannedBatch:
    """The indices of the images of a batch, and their canvas."""

    canvas: Canvas
    indices: tuple[int, ...]


@dataclass(frozen=True)
class InputBatch:
    """Network input for the images with these indices in the first slots; all further slots are filler."""

    indices: tuple[int, ...]
    images: np.ndarray  # [B, H, W, 3] uint8, or float32 if resize is "float"
    image_hw: np.ndarray  # [B, 2] int32, 0 for filler
    further: tuple[tuple[np.ndarray, np.ndarray], ...] = ()  # (images, image_hw) at each further short side


def plan_batches(sizes: Sequence[ImageHW] | np.ndarray, test_config: TestConfig, batch_size: int) -> list[PlannedBatch]:
    """Returns batches of up to `batch_size` images with the same canvas, in the order of their first images."""
    by_canvas: dict[Canvas, list[int]] = {}
    for index, (height, width) in enumerate(sizes):
        _, canvas = fit_size(
            (int(height), int(width)),
            test_config.short_side,
            test_config.max_side,
            test_config.canvases,
            test_config.size_rounding,
        )
        by_canvas.setdefault(canvas, []).append(index)
    batches = [
        PlannedBatch(canvas, tuple(indices[start : start + batch_size]))
        for canvas, indices in by_canvas.items()
        for start in range(0, len(indices), batch_size)
    ]
    return sorted(batches, key=lambda batch: batch.indices[0])


def assemble_batch(
    indices: Sequence[int], images: Sequence[np.ndarray], canvas: Canvas, test_config: TestConfig, batch_size: int
) -> InputBatch:
    """Resizes images, uint8 [h, w, 3], pads them at the bottom right, and adds filler up to `batch_size`.

    The same is done for every further short side of the test config.
    """
    padded = np.zeros((batch_size, *canvas, 3), np.float32 if test_config.resize == "float" else np.uint8)
    image_hw = np.zeros((batch_size, 2), np.int32)
    for slot, image in enumerate(images):
        height, width = image.shape[:2]
        new_hw, _ = fit_size(
            (height, width),
            test_config.short_side,
            test_config.max_side,
            test_config.canvases,
            test_config.size_rounding,
        )
        padded[slot, : new_hw[0], : new_hw[1]] = resize_image(image, new_hw, test_config.resize)
        image_hw[slot] = new_hw
    scaled = [
        assemble_batch(indices, images, recipe.canvases[0], recipe, batch_size)
        for recipe in further_recipes(test_config, canvas)
    ]
    return InputBatch(tuple(indices), padded, image_hw, tuple((batch.images, batch.image_hw) for batch in scaled))


def predict_images(predict_fn: PredictFn, batches: Iterable[InputBatch]) -> Iterator[tuple[int, ImageHW, Detections]]:
    """Yields each image's index, its size in the network input, and its detections as NumPy arrays.

    The device computes one batch while the caller processes the previous one; no further batches are in memory.
    """
    pending: tuple[InputBatch, Detections] | None = None
    for batch in batches:
        started = (batch, predict_fn(batch.images, batch.image_hw, *batch.further))
        if pending is not None:
            yield from _split(*pending)
        pending = started
    if pending is not None:
        yield from _split(*pending)


def _split(batch: InputBatch, detections: Detections) -> Iterator[tuple[int, ImageHW, Detections]]:
    fetched = jax.device_get(detections)
    for slot, index in enumerate(batch.indices):
        height, width = batch.image_hw[slot].tolist()
        yield index, (height, width), jax.tree.map(operator.itemgetter(slot), fetched)
