"""Converts detections from pixels of the network input to pixels of the original image.

Shapes: D detection slots on the device, n kept detections, m mask side, H x W image, K keypoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.detection.finiteness import first_part
from mrcnn_jax.errors import ConfigError, NumericalError
from mrcnn_jax.inference.keypoint_decoding import decode_keypoints
from mrcnn_jax.inference.mask_crops import MaskCrop, box_crop, move_crop, resize_crop
from mrcnn_jax.inference.paste_masks import encode_window, paste_window
from mrcnn_jax.structures import Detections


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """Detections of one image on the host, best first, in pixels of the image and category ids of the data set."""

    boxes: np.ndarray
    """[n, 4] float32: x0, y0, x1, y1 in pixels of the image."""
    scores: np.ndarray
    """[n] float32."""
    labels: np.ndarray
    """[n] int64, category ids of the data set."""
    mask_probabilities: np.ndarray
    """[n, m, m] float32, each of which covers its box; m is 0 if the model has no mask head."""
    keypoints: np.ndarray
    """[n, K, 3] float32: x and y in pixels of the image, and a score; K is 0 if the model has no keypoint head."""
    image_hw: ImageHW
    test: TestConfig
    categories: tuple[Category, ...]
    crops: tuple[MaskCrop | None, ...] | None = None
    """[n] masks given as pixels, as those joined from several tiles are; the others, None, are pasted from
    `mask_probabilities`. None if there are no such masks."""

    def __len__(self) -> int:
        return len(self.boxes)

    @cached_property
    def masks(self) -> np.ndarray:
        """[n, H, W] bool, computed at first use, n bytes for each pixel; [n, 0, 0] without a mask head."""
        if not self.has_masks:
            return np.zeros((len(self), 0, 0), bool)
        masks = np.zeros((len(self), *self.image_hw), bool)
        for index, mask in enumerate(masks):
            pixels, (y0, y1, x0, x1) = self.crop(index)
            mask[y0:y1, x0:x1] = pixels
        return masks

    @property
    def has_masks(self) -> bool:
        """Whether the model has a mask head."""
        return bool(self.mask_probabilities.shape[-1])

    def crop(self, index: int) -> MaskCrop:
        """Returns the mask of one detection as the pixels of its window. It is computed, and not kept."""
        given = self.crops[index] if self.crops is not None else None
        if given is not None:
            return given
        test = self.test
        pasted = paste_window(
            self.mask_probabilities[index], self.boxes[index], self.image_hw, test.mask_threshold, test.mask_paste
        )
        return MaskCrop(*pasted)

    def crop_or_box(self, index: int) -> MaskCrop:
        """Returns the mask of one detection, or all pixels of its box if the model has no mask head."""
        return self.crop(index) if self.has_masks else box_crop(self.boxes[index], self.image_hw)

    @property
    def category_names(self) -> list[str]:
        """The name of each detection's category, [n]."""
        names = {category.id: category.name for category in self.categories}
        return [names[label] for label in self.labels.tolist()]

    def select(self, keep: np.ndarray) -> "ImageDetections":
        """Returns the detections that `keep`, bool [n] or indices, selects."""
        fields = ("boxes", "scores", "labels", "mask_probabilities", "keypoints")
        crops = None
        if self.crops is not None:
            crops = tuple(self.crops[index] for index in np.arange(len(self))[keep].tolist())
        return replace(self, crops=crops, **{name: getattr(self, name)[keep] for name in fields})

    def resized(self, image_hw: ImageHW) -> "ImageDetections":
        """Returns the detections for the image resized to `image_hw`."""
        scale_y, scale_x = image_hw[0] / self.image_hw[0], image_hw[1] / self.image_hw[1]
        scale = np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
        keypoints = self.keypoints * np.array([scale_x, scale_y, 1.0], np.float32)
        crops = None
        if self.crops is not None:
            crops = tuple(crop and resize_crop(crop, self.image_hw, image_hw) for crop in self.crops)
        return replace(self, boxes=self.boxes * scale, keypoints=keypoints, image_hw=image_hw, crops=crops)

    def moved(self, top: int, left: int, image_hw: ImageHW) -> "ImageDetections":
        """Returns the detections of a part of a larger image in pixels of that image, of size `image_hw`."""
        crops = None
        if self.crops is not None:
            crops = tuple(crop and move_crop(crop, top, left) for crop in self.crops)
        boxes = self.boxes + np.array([left, top, left, top], np.float32)
        keypoints = self.keypoints + np.array([left, top, 0.0], np.float32)
        return replace(self, boxes=boxes, keypoints=keypoints, image_hw=image_hw, crops=crops)

    def coco_results(self, image_id: int) -> list[dict[str, Any]]:
        """Returns COCO results: image_id, category_id, bbox [x, y, width, height] and score.

        Models with these heads add segmentation, as compressed RLE, and keypoints [x, y, score, ...]. Only one mask is
        in memory at a time, unlike with `masks`.
        """
        x0, y0, x1, y1 = self.boxes.astype(np.float64).T
        columns: dict[str, list[Any]] = {
            "category_id": self.labels.tolist(),
            "bbox": np.stack([x0, y0, x1 - x0, y1 - y0], axis=-1).tolist(),
            "score": self.scores.tolist(),
        }
        if self.has_masks:
            columns["segmentation"] = [encode_window(*self.crop(index), self.image_hw) for index in range(len(self))]
        if self.keypoints.shape[1]:
            offset = np.array([self.test.keypoint_offset] * 2 + [0.0])
            keypoints = self.keypoints.astype(np.float64) - offset
            columns["keypoints"] = keypoints.reshape(len(self), 3 * keypoints.shape[1]).tolist()
        rows = zip(*columns.values(), strict=True)
        return [{"image_id": image_id, **dict(zip(columns, row, strict=True))} for row in rows]

    def to_supervision(self) -> Any:
        """Returns the detections as `supervision.Detections`, with the category names in its data "class_name".

        `class_id` is the category id of the data set. Keypoints are left out. Raises ConfigError if supervision is not
        installed.
        """
        try:
            from supervision import Detections as SupervisionDetections
        except ImportError:
            raise ConfigError(
                "to_supervision() needs supervision, which is not installed: pip install supervision"
            ) from None
        return SupervisionDetections(
            xyxy=self.boxes,
            mask=self.masks if self.mask_probabilities.shape[-1] else None,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.category_names, dtype=np.str_)},
        )


def concatenate(parts: Sequence[ImageDetections]) -> ImageDetections:
    """Returns the detections of several calls for one image together, in their order; at least one part is needed."""
    fields = ("boxes", "scores", "labels", "mask_probabilities", "keypoints")
    together: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in fields}
    crops: list[MaskCrop | None] = [crop for part in parts for crop in part.crops or [None] * len(part)]
    return replace(parts[0], **together, crops=tuple(crops) if any(part.crops for part in parts) else None)


def restore_detections(
    detections: Detections,
    resized_hw: ImageHW,
    image_hw: ImageHW,
    *,
    categories: tuple[Category, ...],
    test_config: TestConfig,
    name: Callable[[], str] = str,
) -> ImageDetections:
    """Returns the valid detections of one image, scaled from `resized_hw` to `image_hw` and clipped to the image.

    Boxes that are then empty are dropped. If the network computed values that are not finite, raises NumericalError
    with the image's name and the part of the network, whether or not there are detections.
    """
    valid = np.asarray(detections.valid)
    if detections.not_finite is not None and detections.not_finite:
        raise not_finite_error(name(), first_part(int(detections.not_finite)))
    boxes, scores = np.asarray(detections.boxes)[valid], np.asarray(detections.scores)[valid]
    labels, masks = np.asarray(detections.labels)[valid], np.asarray(detections.masks)[valid]
    heat_maps = np.asarray(detections.heat_maps)[valid]
    if not all(np.isfinite(values).all() for values in (boxes, scores, masks, heat_maps)):
        raise not_finite_error(name(), "the model")
    keypoints = decode_keypoints(heat_maps, boxes, test_config.keypoint_score)
    scale_y, scale_x = image_hw[0] / resized_hw[0], image_hw[1] / resized_hw[1]
    keypoints = (keypoints * [scale_x, scale_y, 1.0]).astype(np.float32)
    boxes = boxes.astype(np.float64) * [scale_x, scale_y, scale_x, scale_y]
    boxes = np.clip(boxes, 0.0, [image_hw[1], image_hw[0], image_hw[1], image_hw[0]]).astype(np.float32)
    x0, y0, x1, y1 = boxes.T
    category_ids = np.array([0, *(category.id for category in categories)], np.int64)
    found = ImageDetections(boxes, scores, category_ids[labels], masks, keypoints, image_hw, test_config, categories)
    return found.select((x1 > x0) & (y1 > y0))


def not_finite_error(name: str, part: str) -> NumericalError:
    """Returns the error for an image for which a part of the network computed NaN or infinity."""
    return NumericalError(
        f"{f'Image {name}' if name else 'An image'}: {part} computed values that are not finite (NaN or infinity). The "
        "weights are damaged or their training diverged: use those of an earlier step, or import the published file "
        "again (variances of 0 need --model.norm-eps 1e-5)."
    )
