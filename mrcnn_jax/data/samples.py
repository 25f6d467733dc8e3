"""Training samples: a record's augmented image on its canvas, with ground truth in a fixed number of slots.

Shapes: H, W canvas; G ground-truth slots; M bitmap side; K keypoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from mrcnn_jax.config import Canvas, DataConfig, TestConfig
from mrcnn_jax.data.annotations import clip_bbox
from mrcnn_jax.data.bitmaps import make_bitmap
from mrcnn_jax.data.crop import CropWindow, crop_image, crop_objects, draw_window, move_boxes, move_keypoints
from mrcnn_jax.data.dataset import ObjectRecord, Record
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.transforms import (
    fit_size,
    flip_boxes,
    flip_keypoints,
    pad_to_canvas,
    resize_boxes,
    resize_image,
    resize_keypoints,
    scale_size,
)
from mrcnn_jax.structures import Batch, GroundTruth


@dataclass(frozen=True)
class Sample:
    """One training image with its ground truth."""

    image: np.ndarray  # [H, W, 3] uint8, padded to the canvas
    image_hw: ImageHW  # (0, 0) if the image could not be read
    ground_truth: GroundTruth
    num_dropped: int  # objects left out because the slots are full


def make_sample(
    record: Record,
    canvas: Canvas,
    data_config: DataConfig,
    rng: np.random.Generator,
    keypoint_flip: tuple[int, ...] = (),
) -> Sample:
    """Returns the record resized to a random short side and flipped with the configured probability, without crowds.

    With scale jitter, the size is also multiplied by a random factor, and the image is cropped to the canvas.

    `keypoint_flip` contains the index of the keypoint that each keypoint becomes in a flip; () leaves keypoints out.
    """
    short_side = data_config.short_sides[rng.integers(len(data_config.short_sides))]
    is_flipped = bool(rng.random() < data_config.flip_probability)
    old_hw = (record.image.shape[0], record.image.shape[1])
    new_hw, _ = fit_size(old_hw, short_side, data_config.max_side, (canvas,))
    is_jittered = data_config.scale_jitter != (1.0, 1.0)
    if is_jittered:
        new_hw = scale_size(new_hw, rng.uniform(*data_config.scale_jitter))
    window = draw_window(new_hw, canvas, rng)  # the whole image without jitter
    image = crop_image(resize_image(record.image, new_hw), window)
    if is_flipped:
        image = _flip_image(image)
    objects = [item for item in record.objects if not item.is_crowd]
    if is_jittered:
        objects = crop_objects(objects, window, old_hw, new_hw, data_config.mask_size)
    kept = choose_objects(objects, data_config.max_objects)
    ground_truth = _make_ground_truth(kept, old_hw, new_hw, window, is_flipped, data_config, keypoint_flip)
    return Sample(pad_to_canvas(image, canvas), window.hw, ground_truth, len(objects) - len(kept))


def make_plain_sample(
    record: Record, canvas: Canvas, test_config: TestConfig, data_config: DataConfig, num_keypoints: int = 0
) -> Sample:
    """Returns the record without augmentation: the image as at test time, and its objects without crowds.

    `data_config` provides the slots and the size of the bitmaps. The image is float32 if `test_config.resize` is.
    """
    old_hw = (record.image.shape[0], record.image.shape[1])
    sides = test_config.short_side, test_config.max_side
    new_hw, _ = fit_size(old_hw, *sides, (canvas,), test_config.size_rounding)
    image = resize_image(record.image, new_hw, test_config.resize)
    padded = np.zeros((*canvas, 3), image.dtype)
    padded[: new_hw[0], : new_hw[1]] = image
    objects = [item for item in record.objects if not item.is_crowd]
    kept = choose_objects(objects, data_config.max_objects)
    whole = CropWindow(0, 0, new_hw)
    unflipped = tuple(range(num_keypoints))
    ground_truth = _make_ground_truth(kept, old_hw, new_hw, whole, False, data_config, unflipped)
    return Sample(padded, new_hw, ground_truth, len(objects) - len(kept))


def stack_samples(samples: Sequence[Sample], *, image_ids: np.ndarray, sample_index: np.ndarray) -> Batch:
    """Returns the batch of samples on the same canvas, with ids int32 [B]; those that could not be read are invalid."""
    image_hw = np.array([sample.image_hw for sample in samples], np.int32)
    return Batch(
        images=np.stack([sample.image for sample in samples]),
        image_hw=image_hw,
        ground_truth=jax.tree.map(lambda *leaves: np.stack(leaves), *[sample.ground_truth for sample in samples]),
        valid=image_hw[:, 0] > 0,
        image_id=image_ids,
        sample_index=sample_index,
    )


def make_invalid_sample(canvas: Canvas, data_config: DataConfig, num_keypoints: int = 0) -> Sample:
    """Returns the sample that replaces an image that could not be read."""
    return Sample(np.zeros((*canvas, 3), np.uint8), (0, 0), _empty_ground_truth(data_config, num_keypoints), 0)


def choose_objects(objects: list[ObjectRecord], max_objects: int) -> list[ObjectRecord]:
    """Returns the `max_objects` largest objects by area in their original order; ties go to the earlier object."""
    if len(objects) <= max_objects:
        return objects
    by_area = sorted(range(len(objects)), key=lambda index: (-objects[index].area, index))
    return [objects[index] for index in sorted(by_area[:max_objects])]


def _empty_ground_truth(data_config: DataConfig, num_keypoints: int) -> GroundTruth:
    return GroundTruth(
        boxes=np.zeros((data_config.max_objects, 4), np.float32),
        labels=np.zeros(data_config.max_objects, np.int32),
        masks=np.zeros((data_config.max_objects, data_config.mask_size, data_config.mask_size), np.uint8),
        valid=np.zeros(data_config.max_objects, np.bool_),
        keypoints=np.zeros((data_config.max_objects, num_keypoints, 3), np.float32) if num_keypoints else None,
        has_mask=np.zeros(data_config.max_objects, np.bool_),
    )


def _make_ground_truth(
    objects: list[ObjectRecord],
    old_hw: ImageHW,
    new_hw: ImageHW,
    window: CropWindow,
    is_flipped: bool,
    data_config: DataConfig,
    keypoint_flip: tuple[int, ...],
) -> GroundTruth:
    ground_truth = _empty_ground_truth(data_config, len(keypoint_flip))
    if not objects:
        return ground_truth
    boxes = np.array([clip_bbox(item.bbox, old_hw) for item in objects])
    for slot, (item, box) in enumerate(zip(objects, boxes, strict=True)):
        if item.segmentation is not None:
            bitmap = make_bitmap(item.segmentation, box, old_hw, data_config.mask_size)
            ground_truth.masks[slot] = bitmap[:, ::-1] if is_flipped else bitmap
    boxes = move_boxes(resize_boxes(boxes, old_hw, new_hw), window)
    ground_truth.boxes[: len(objects)] = flip_boxes(boxes, window.hw[1]) if is_flipped else boxes
    ground_truth.labels[: len(objects)] = [item.label for item in objects]
    ground_truth.valid[: len(objects)] = True
    if ground_truth.has_mask is not None:
        ground_truth.has_mask[: len(objects)] = [item.segmentation is not None for item in objects]
    if ground_truth.keypoints is not None:
        for slot, item in enumerate(objects):
            if len(item.keypoints) == 3 * len(keypoint_flip):
                keypoints = resize_keypoints(np.reshape(item.keypoints, (-1, 3)), old_hw, new_hw)
                keypoints = move_keypoints(keypoints, window)
                keypoints = flip_keypoints(keypoints, window.hw[1], keypoint_flip) if is_flipped else keypoints
                ground_truth.keypoints[slot] = keypoints
    return ground_truth


def _flip_image(image: np.ndarray) -> np.ndarray:
    import cv2

    return np.asarray(cv2.flip(image, 1), np.uint8)  # ten times as fast as copying image[:, ::-1]
