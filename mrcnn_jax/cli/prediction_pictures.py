"""Pictures of predictions: drawn copies of the images, masks alone, or one cut-out for each detection."""

import re
from pathlib import Path
from typing import Literal

import numpy as np

from mrcnn_jax.inference.mask_crops import intersect, part_of
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.predict_files import DrawFn
from mrcnn_jax.visualization.overlays import draw_detections, instance_color, save_picture

PictureKind = Literal["drawn", "masks", "crops", "none"]


def choose_picture(kind: PictureKind) -> DrawFn | None:
    """Returns the function that writes this kind of picture; None for "none"."""
    kinds: dict[PictureKind, DrawFn] = {"drawn": save_drawn, "masks": save_masks, "crops": save_crops}
    return kinds.get(kind)


def save_drawn(path: Path, image: np.ndarray, detections: ImageDetections) -> Path:
    """Writes NAME.jpg: the image with masks, boxes, labels and keypoints."""
    picture = draw_detections(
        image,
        detections.boxes,
        detections.scores,
        detections.labels,
        detections.crop if detections.has_masks else None,
        detections.categories,
        detections.keypoints,
    )
    return _save(path.with_name(f"{path.name}.jpg"), picture)


def save_masks(path: Path, image: np.ndarray, detections: ImageDetections) -> Path:
    """Writes NAME.png: the masks in the colours of the drawn copies, on black, the better ones on top."""
    picture = np.zeros_like(image)
    for rank in reversed(range(len(detections) if detections.has_masks else 0)):
        pixels, (y0, y1, x0, x1) = detections.crop(rank)
        picture[y0:y1, x0:x1][pixels] = instance_color(rank)
    return _save(path.with_name(f"{path.name}.png"), picture)


def save_crops(path: Path, image: np.ndarray, detections: ImageDetections) -> Path:
    """Writes NAME/RANK-CATEGORY.png: the pixels in each detection's box, black outside of its mask."""
    height, width = image.shape[:2]
    for index, (box, name) in enumerate(zip(detections.boxes, detections.category_names, strict=True)):
        x0, y0 = np.clip(np.floor(box[:2]).astype(int), 0, (width - 1, height - 1)).tolist()
        x1, y1 = np.clip(np.ceil(box[2:]).astype(int), (x0 + 1, y0 + 1), (width, height)).tolist()
        crop = image[y0:y1, x0:x1].copy()
        if detections.has_masks:
            mask = detections.crop(index)
            top, bottom, left, right = window = intersect(mask.window, (y0, y1, x0, x1))
            inside = np.zeros(crop.shape[:2], bool)
            inside[top - y0 : max(bottom, top) - y0, left - x0 : max(right, left) - x0] = part_of(mask, window)
            crop[~inside] = 0
        safe_name = re.sub(r"[^\w-]+", "_", name)[:40]
        _save(path / f"{index + 1:03d}-{safe_name}.png", crop)
    return path


def _save(path: Path, picture: np.ndarray) -> Path:
    save_picture(path, picture)
    return path
