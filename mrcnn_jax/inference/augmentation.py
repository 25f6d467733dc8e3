"""Test-time augmentation: detection in flipped images and at other sizes, too (paper, appendix B).

Boxes are detected in every variant of an image and merged by NMS in the frame of the first variant, which is the
network input without augmentation. The other heads then run on the merged boxes in every variant, and their outputs are
averaged: mask probabilities and keypoint logits, which are relative to their box and need no scaling.

Shapes: B images, D detections, n candidates, m mask side, K keypoints, h heat-map side.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from mrcnn_jax.config import SIZE_DIVISOR, Canvas, ModelConfig, TestConfig
from mrcnn_jax.data.transforms import flip_boxes, resize_boxes
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.integers import ceil_div
from mrcnn_jax.structures import Detections


@dataclass(frozen=True)
class Variant:
    """A batch of images at one size, flipped or not."""

    images: np.ndarray  # [B, H, W, 3]
    image_hw: np.ndarray  # [B, 2] int32, 0 for filler
    is_flipped: bool


def is_augmented(test_config: TestConfig) -> bool:
    """Returns whether the config requests more than one variant."""
    return test_config.augment_flip or bool(test_config.augment_short_sides)


def without_augmentation(test_config: TestConfig) -> TestConfig:
    """Returns the config without test-time augmentation."""
    return dataclasses.replace(test_config, augment_flip=False, augment_short_sides=())


def further_recipes(test_config: TestConfig, canvas: Canvas) -> list[TestConfig]:
    """Returns a config for each further short side, with one canvas that all images on `canvas` fit when resized."""

    def scale(side: int, short_side: int, divisor: int = 1) -> int:
        return ceil_div(side * short_side, test_config.short_side * divisor) * divisor

    return [
        dataclasses.replace(
            without_augmentation(test_config),
            short_side=short_side,
            max_side=scale(test_config.max_side, short_side),
            canvases=((scale(canvas[0], short_side, SIZE_DIVISOR), scale(canvas[1], short_side, SIZE_DIVISOR)),),
        )
        for short_side in dict.fromkeys(test_config.augment_short_sides)
        if short_side != test_config.short_side
    ]


def augment(
    detect: Callable[[np.ndarray, np.ndarray], Detections],
    complete: Callable[[np.ndarray, np.ndarray, Detections], Detections],
    test_config: TestConfig,
    keypoint_flip: Sequence[int],
) -> Callable[..., Detections]:
    """Returns a PredictFn with augmentation, which calls two compiled functions.

    Args:
        detect: maps images and image_hw to detections without masks and keypoints (`predict_boxes`).
        complete: maps images, image_hw and such detections to detections with masks and keypoints
            (`predict_masks_and_keypoints`).
        test_config: defines the variants and how their boxes are merged.
        keypoint_flip: as in `ModelConfig`; must not be empty if there are keypoints to flip.
    """

    def predict_fn(images: np.ndarray, image_hw: np.ndarray, *further: tuple[np.ndarray, np.ndarray]) -> Detections:
        variants = make_variants([(images, image_hw), *further], flip=test_config.augment_flip)
        found = jax.device_get([detect(variant.images, variant.image_hw) for variant in variants])
        merged = merge_detections(found, variants, test_config)
        completed = [
            complete(variant.images, variant.image_hw, to_variant(merged, variant, image_hw)) for variant in variants
        ]
        return average(merged, completed, variants, keypoint_flip)

    return predict_fn


def check_keypoint_flip(test_config: TestConfig, model_config: ModelConfig) -> None:
    """Raises ConfigError if images are to be flipped and `model.keypoint_flip` does not match the keypoints."""
    count, num_indices = model_config.num_keypoints, len(model_config.keypoint_flip)
    if test_config.augment_flip and count and num_indices != count:
        raise ConfigError(
            f"The model has {count} keypoints, but model.keypoint_flip has {num_indices} indices, so a flip cannot "
            "exchange keypoints. Predict without test.augment_flip."
        )


def make_variants(sizes: Sequence[tuple[np.ndarray, np.ndarray]], *, flip: bool) -> list[Variant]:
    """Returns the images (images, image_hw) of every size and, if requested, all of them flipped after these."""
    plain = [Variant(images, image_hw, is_flipped=False) for images, image_hw in sizes]
    flipped = [Variant(flip_images(*size), size[1], is_flipped=True) for size in sizes if flip]
    return plain + flipped


def flip_images(images: np.ndarray, image_hw: np.ndarray) -> np.ndarray:
    """Flips images [B, H, W, 3] horizontally, each within its own size, so that they stay at the top left."""
    flipped = np.zeros_like(images)
    for slot, (height, width) in enumerate(image_hw.tolist()):
        flipped[slot, :height, :width] = images[slot, :height, :width][:, ::-1]
    return flipped


def flip_heat_maps(heat_maps: np.ndarray, keypoint_flip: Sequence[int]) -> np.ndarray:
    """Returns the heat maps [..., K, h, h] of the flipped object, in which a left eye is a right one."""
    return heat_maps[..., list(keypoint_flip), :, ::-1] if heat_maps.size else heat_maps


def to_reference(detections: Detections, variant: Variant, reference_hw: np.ndarray) -> Detections:
    """Returns a variant's detections with boxes in the frame of the unflipped images of sizes [B, 2]."""
    boxes = []
    for found, old_hw, new_hw in zip(detections.boxes, *_positive(variant.image_hw, reference_hw), strict=True):
        boxes.append(resize_boxes(flip_boxes(found, old_hw[1]) if variant.is_flipped else found, old_hw, new_hw))
    return _with_boxes(detections, boxes)


def to_variant(detections: Detections, variant: Variant, reference_hw: np.ndarray) -> Detections:
    """Returns detections with boxes in the frame of a variant; the inverse of `to_reference`."""
    boxes = []
    for found, old_hw, new_hw in zip(detections.boxes, *_positive(reference_hw, variant.image_hw), strict=True):
        resized = resize_boxes(found, old_hw, new_hw)
        boxes.append(flip_boxes(resized, new_hw[1]) if variant.is_flipped else resized)
    return _with_boxes(detections, boxes)


def _positive(*sizes: np.ndarray) -> list[list[list[int]]]:
    return [np.maximum(size, 1).tolist() for size in sizes]  # filler has no size and no detections


def _with_boxes(detections: Detections, boxes: list[np.ndarray]) -> Detections:
    kept = np.where(detections.valid[..., None], np.stack(boxes), 0.0).astype(np.float32)
    return dataclasses.replace(detections, boxes=kept)


def merge_detections(found: Sequence[Detections], variants: Sequence[Variant], test_config: TestConfig) -> Detections:
    """Returns the best `max_detections` boxes of all variants after NMS per class, in the first variant's frame."""
    reference_hw = variants[0].image_hw
    moved = [to_reference(*pair, reference_hw) for pair in zip(found, variants, strict=True)]
    moved = [dataclasses.replace(detections, not_finite=None) for detections in moved]  # it has no entry per detection
    candidates = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *moved)  # [B, n, ...]
    merged = jax.tree.map(np.zeros_like, moved[0])
    for slot, valid in enumerate(candidates.valid):
        boxes, scores, labels = (leaf[slot] for leaf in (candidates.boxes, candidates.scores, candidates.labels))
        kept = suppress(boxes, np.where(valid, scores, -np.inf), labels, iou_threshold=test_config.nms_threshold)
        kept = kept[: test_config.max_detections]
        for name in ("boxes", "scores", "labels", "valid"):
            getattr(merged, name)[slot, : len(kept)] = getattr(candidates, name)[slot, kept]
    return dataclasses.replace(merged, not_finite=join_marks([detections.not_finite for detections in found]))


def join_marks(marks: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Returns the marks [B] of the parts that are not finite in any variant; None if there are no marks."""
    given = [each for each in marks if each is not None]
    return np.bitwise_or.reduce(given) if given else None


def suppress(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, *, iou_threshold: float) -> np.ndarray:
    """Returns the indices of the boxes [n, 4] that greedy NMS per class keeps, best first, without scores of -inf."""
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
    areas = (x1 - x0) * (y1 - y0)
    kept = []
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > -np.inf]
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        width = np.minimum(x1[best], x1[order]) - np.maximum(x0[best], x0[order])
        height = np.minimum(y1[best], y1[order]) - np.maximum(y0[best], y0[order])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        overlaps = shared > iou_threshold * (areas[best] + areas[order] - shared)
        order = order[~overlaps | (labels[order] != labels[best])]
    return np.array(kept, np.int64)


def average(
    merged: Detections, completed: Sequence[Detections], variants: Sequence[Variant], keypoint_flip: Sequence[int]
) -> Detections:
    """Returns the merged detections with the mean mask probabilities and keypoint logits of the variants.

    Those of flipped variants are flipped back.
    """
    masks, heat_maps, marks = [], [], []
    for detections, variant in zip(completed, variants, strict=True):
        mask, heat_map, mark = jax.device_get((detections.masks, detections.heat_maps, detections.not_finite))
        marks.append(mark)
        masks.append(mask[..., ::-1] if variant.is_flipped else mask)
        heat_maps.append(flip_heat_maps(heat_map, keypoint_flip) if variant.is_flipped else heat_map)
    return dataclasses.replace(
        merged, masks=np.mean(masks, axis=0), heat_maps=np.mean(heat_maps, axis=0), not_finite=join_marks(marks)
    )
