"""Pictures of predictions beside their ground truth, both given as COCO dicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.visualization.overlays import draw_detections, draw_side_by_side

SCORE_THRESHOLD = 0.5
"""Predictions with a lower score are not drawn: the many weak ones that AP needs would hide the image."""

CocoObject = Mapping[str, Any]
"""bbox (x, y, w, h), category_id, segmentation (polygons or RLE), score for predictions."""


def draw_comparison(
    image: np.ndarray,
    ground_truth: Sequence[CocoObject],
    predictions: Sequence[CocoObject],
    categories: Sequence[Category],
) -> np.ndarray:
    """Returns a picture of ground truth (left) and predictions (right); it and `image` [H, W, 3] are uint8 RGB."""
    confident = [prediction for prediction in predictions if prediction["score"] >= SCORE_THRESHOLD]
    scores = np.array([prediction["score"] for prediction in confident], np.float32)
    return draw_side_by_side(
        _draw_objects(image, ground_truth, None, categories),
        _draw_objects(image, confident, scores, categories),
        (f"ground truth ({len(ground_truth)})", f"predictions ({len(confident)})"),
    )


def _draw_objects(
    image: np.ndarray, objects: Sequence[CocoObject], scores: np.ndarray | None, categories: Sequence[Category]
) -> np.ndarray:
    corners = [(x, y, x + width, y + height) for x, y, width, height in (item["bbox"] for item in objects)]
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    labels = np.array([item["category_id"] for item in objects], np.int64)
    masks = np.zeros((len(objects), *image.shape[:2]), bool)
    for mask, item in zip(masks, objects, strict=True):
        mask[...] = _decode_segmentation(item.get("segmentation"), image.shape[:2])
    keypoints = [np.reshape(item.get("keypoints") or (), (-1, 3)) for item in objects]
    return draw_detections(image, boxes, scores, labels, masks, categories, keypoints)


def _decode_segmentation(segmentation: Any, image_hw: tuple[int, ...]) -> np.ndarray:
    """Returns the mask bool [H, W] of polygons or of an RLE, compressed or not; empty for an object without a mask."""
    from pycocotools import mask as coco_mask

    if not segmentation:
        return np.zeros(image_hw, bool)
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str | bytes):
        return np.asarray(coco_mask.decode(segmentation), bool)
    rle = coco_mask.frPyObjects(segmentation, *image_hw)
    return np.asarray(coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle), bool)
