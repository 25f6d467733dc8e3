"""Detections in pixels of the network input become detections in pixels of the picture as it was.

Shapes: D slots of the device's detections, n of them kept, m mask side, H W picture, K keypoints.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.errors import NumericalError
from mrcnn_jax.evaluation.paste_masks import encode_masks, paste_masks
from mrcnn_jax.structures import Category, Detections


@dataclass(frozen=True, eq=False)
class PictureDetections:
    """Detections of one picture on the host, best first, in its own pixels and its data set's category ids."""

    boxes: np.ndarray
    """[n, 4] float32: x0, y0, x1, y1 in pixels of the picture."""
    scores: np.ndarray
    """[n] float32."""
    labels: np.ndarray
    """[n] int64, data-set category ids."""
    mask_probabilities: np.ndarray
    """[n, m, m] float32, each spread over its box."""
    image_hw: ImageHW
    mask_threshold: float
    categories: tuple[Category, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @cached_property
    def masks(self) -> np.ndarray:
        """[n, H, W] bool, made at the first use: n times as many bytes as the picture has pixels."""
        return paste_masks(self.mask_probabilities, self.boxes, self.image_hw, self.mask_threshold)

    @property
    def keypoints(self) -> np.ndarray:
        """[n, K, 3] float32: x, y, score. K is 0: the model has no keypoint head."""
        return np.zeros((len(self), 0, 3), np.float32)

    @property
    def category_names(self) -> list[str]:
        """The name of each detection's category, [n]."""
        names = {category.id: category.name for category in self.categories}
        return [names[label] for label in self.labels.tolist()]

    def select(self, keep: np.ndarray) -> "PictureDetections":
        """The detections where `keep`, bool [n] or indices, says so."""
        fields = ("boxes", "scores", "labels", "mask_probabilities")
        return replace(self, **{name: getattr(self, name)[keep] for name in fields})

    def resized(self, image_hw: ImageHW) -> "PictureDetections":
        """The same detections for the picture resized to `image_hw`."""
        scale_y, scale_x = image_hw[0] / self.image_hw[0], image_hw[1] / self.image_hw[1]
        scale = np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
        return replace(self, boxes=self.boxes * scale, image_hw=image_hw)

    def coco_results(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox [x, y, width, height], score, segmentation as compressed RLE.

        Needs the memory of one mask at a time, not of `masks`.
        """
        codes = encode_masks(self.mask_probabilities, self.boxes, self.image_hw, self.mask_threshold)
        x0, y0, x1, y1 = self.boxes.astype(np.float64).T
        columns = zip(
            self.labels.tolist(),
            np.stack([x0, y0, x1 - x0, y1 - y0], axis=-1).tolist(),
            self.scores.tolist(),
            codes,
            strict=True,
        )
        names = ("category_id", "bbox", "score", "segmentation")
        return [{"image_id": image_id, **dict(zip(names, row, strict=True))} for row in columns]


def restore_detections(
    detections: Detections,
    resized_hw: ImageHW,
    image_hw: ImageHW,
    *,
    categories: tuple[Category, ...],
    mask_threshold: float,
) -> PictureDetections:
    """The valid detections of one image, scaled from `resized_hw` to `image_hw` and clipped to the picture.

    Boxes that are empty after this are dropped. Raises NumericalError for values that are not finite.
    """
    valid = np.asarray(detections.valid)
    boxes, scores = np.asarray(detections.boxes)[valid], np.asarray(detections.scores)[valid]
    labels, masks = np.asarray(detections.labels)[valid], np.asarray(detections.masks)[valid]
    if not all(np.isfinite(values).all() for values in (boxes, scores, masks)):
        raise NumericalError("The model's detections are not finite: its weights are damaged or its training diverged.")
    scale_y, scale_x = image_hw[0] / resized_hw[0], image_hw[1] / resized_hw[1]
    boxes = boxes.astype(np.float64) * [scale_x, scale_y, scale_x, scale_y]
    boxes = np.clip(boxes, 0.0, [image_hw[1], image_hw[0], image_hw[1], image_hw[0]]).astype(np.float32)
    x0, y0, x1, y1 = boxes.T
    keep = (x1 > x0) & (y1 > y0)
    category_ids = np.array([0, *(category.id for category in categories)], np.int64)
    return PictureDetections(
        boxes[keep], scores[keep], category_ids[labels[keep]], masks[keep], image_hw, mask_threshold, categories
    )
