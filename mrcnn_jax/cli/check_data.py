"""Checks that a prepared data set preserves its annotations, and prints JSON.

`ground_truth_ap` is the AP of the annotations as detections: 1.0 unless evaluation loses something.
`mask_target_iou` is the IoU of mask targets from box-relative bitmaps with targets from full-size masks.
`objects_without_mask` is the number of objects, crowds excepted, that have only a box. They are ignored in the AP of
masks and have no mask target; a number that needs masks is null if no object has one.

    mrcnn check-data --data data/coco --split val --objects 500
"""

import json
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.cli import command_line
from mrcnn_jax.config import DataConfig
from mrcnn_jax.data.annotations import Segmentation, clip_bbox
from mrcnn_jax.data.bitmaps import decode_mask, make_bitmap
from mrcnn_jax.data.dataset import Dataset, open_dataset
from mrcnn_jax.data.transforms import fit_size, resize_boxes
from mrcnn_jax.evaluation.coco_metrics import score_results
from mrcnn_jax.ops.masks import sample_mask_targets
from mrcnn_jax.ops.roi_align import interpolation_matrix

TARGET_SIZE = 28
JITTER = 0.15
"""RoIs are boxes with borders moved by up to this share of their sides, similar to proposals."""


@dataclass(frozen=True)
class Arguments:
    data: str = command_line.Required
    """Prepared folder, DIR or DIR:SPLIT."""
    split: str = ""
    """Split of the folder, if it has several."""
    max_detections: int = 100
    """Detections per image that are scored."""
    objects: int = 500
    """Number of objects drawn at random for mask_target_iou."""
    config: DataConfig = field(default_factory=DataConfig)
    """Image and bitmap sizes of training."""


def score_ground_truth(dataset: Dataset, max_detections: int) -> dict[str, float | None]:
    """Returns the AP of the annotations' boxes, masks and, if there are any, keypoints against themselves.

    The detection of an object without a mask has its box as a mask.
    """
    truth = dataset.coco_dict()
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    results: list[dict[str, Any]] = [
        {
            "image_id": row["image_id"],
            "category_id": row["category_id"],
            "bbox": row["bbox"],
            "segmentation": row.get("segmentation") or [_outline(clip_bbox(row["bbox"], sizes[row["image_id"]]))],
            "keypoints": row.get("keypoints", []),
            # Only the best 20 people of an image count for keypoints, so those without any come last.
            "score": 1.0 if row.get("num_keypoints", 1) else 0.5,
        }
        for row in truth["annotations"]
        if not row["iscrowd"]
    ]
    skeletons = {category.keypoints for category in dataset.categories if category.keypoints}
    kinds = ["bbox", "segm", *["keypoints"] * (len(skeletons) == 1)]
    found = encode_segmentations(truth, results)
    scores = score_results(truth, found, max_detections=max_detections, iou_types=kinds)
    return {kind: scores[kind]["AP"] for kind in kinds}


def _outline(box: tuple[float, float, float, float]) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def encode_segmentations(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the results with every segmentation as a compressed run-length code, as results require."""
    from pycocotools import mask as rle

    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for row in results:
        mask = decode_mask(row["segmentation"], sizes[row["image_id"]])
        code = rle.encode(np.asfortranarray(mask))
        row["segmentation"] = {"size": list(mask.shape), "counts": code["counts"].decode()}
    return results


def measure_mask_targets(dataset: Dataset, num_objects: int, data_config: DataConfig) -> dict[str, float | None]:
    """Returns the IoU of the two kinds of targets over random objects with a mask, in images of training size."""
    rng = np.random.default_rng(0)
    objects = [
        (index, item, item.segmentation)
        for index in range(len(dataset))
        for item in dataset[index].objects
        if not item.is_crowd and item.segmentation is not None
    ]
    chosen = rng.permutation(len(objects))[:num_objects]
    from_bitmap = jax.jit(
        lambda bitmap, box, roi: sample_mask_targets(
            bitmap[None], box[None], roi[None], jnp.zeros(1, jnp.int32), output_size=TARGET_SIZE
        )[0]
    )
    ious = []
    for index in chosen:
        image, item, segmentation = objects[index]
        old_hw = (int(dataset.sizes[image][0]), int(dataset.sizes[image][1]))
        new_hw, _ = fit_size(old_hw, max(data_config.short_sides), data_config.max_side, data_config.canvases)
        box = clip_bbox(item.bbox, old_hw)
        bitmap = make_bitmap(segmentation, np.asarray(box), old_hw, data_config.mask_size)
        resized = resize_boxes(np.asarray([box]), old_hw, new_hw)[0].astype(np.float32)
        sides = np.tile(resized[2:] - resized[:2], 2)
        roi = (resized + rng.uniform(-JITTER, JITTER, 4) * sides).astype(np.float32)
        ours = np.asarray(from_bitmap(bitmap, resized, roi)) > 0
        exact = target_from_full_mask(full_size_mask(segmentation, old_hw, new_hw), roi)
        union = (ours | exact).sum()
        ious.append((ours & exact).sum() / union if union else 1.0)
    if not ious:
        return {"objects": 0, "mean": None, "tenth_percentile": None}
    return {"objects": len(ious), "mean": float(np.mean(ious)), "tenth_percentile": float(np.percentile(ious, 10))}


def full_size_mask(segmentation: Segmentation, old_hw: tuple[int, int], new_hw: tuple[int, int]) -> np.ndarray:
    """Returns the mask in the resized image, [H, W] 0 or 1: polygons are scaled, and run-length codes resampled."""
    import cv2

    if isinstance(segmentation, dict):
        mask = decode_mask(segmentation, old_hw).astype(np.float32)
        return (cv2.resize(mask, (new_hw[1], new_hw[0]), interpolation=cv2.INTER_LINEAR) >= 0.5).astype(np.uint8)
    scale = np.array([new_hw[1] / old_hw[1], new_hw[0] / old_hw[0]])
    polygons = [(np.reshape(polygon, (-1, 2)) * scale).ravel().tolist() for polygon in segmentation]
    return decode_mask(polygons, new_hw)


def target_from_full_mask(mask: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """Returns [28, 28] bool, cells of the RoI of which the mask covers at least half (Detectron2's bitmask targets)."""
    x0, y0, x1, y1 = roi
    rows = interpolation_matrix(jnp.array([y0 - 0.5]), jnp.array([y1 - y0]), mask.shape[0], TARGET_SIZE, 0)[0]
    columns = interpolation_matrix(jnp.array([x0 - 0.5]), jnp.array([x1 - x0]), mask.shape[1], TARGET_SIZE, 0)[0]
    return np.asarray(rows) @ mask.astype(np.float32) @ np.asarray(columns).T >= 0.5 - 1e-3


def main() -> None:
    """Checks the data set and prints the report as JSON."""
    arguments = command_line.parse(Arguments(), __doc__ or "")
    dataset = open_dataset(f"{arguments.data}:{arguments.split}" if arguments.split else arguments.data)
    report = {
        "data": dataset.name,
        "images": len(dataset),
        "objects_without_mask": dataset.num_without_mask,
        "ground_truth_ap": score_ground_truth(dataset, arguments.max_detections),
        "mask_target_iou": measure_mask_targets(dataset, arguments.objects, arguments.config),
    }
    print(json.dumps(report, indent=2))
