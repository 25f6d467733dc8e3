"""Cityscapes' average precision of object masks, as its evaluation server defines it.

It differs from COCO's. Every prediction is compared with every object, without an order of matching. If several match
one object, the one with the best score is correct and the others are false. Recall is not interpolated, and objects
below 100 pixels do not count. A prediction that matches nothing is ignored if a share of it above the IoU threshold
lies on group regions of its class (the crowds of the ground truth), on objects that do not count, or on void: pixels of
labels that are not evaluated, such as the car that carries the camera. Data that was prepared in format 1 does not
contain void. Without it, a prediction there is false, so scores are equal to the server's or a little lower. Objects
without a mask, which Cityscapes does not have, are ignored as `boxes_only` describes.

Shapes: P predictions, R regions (objects and the group region) of one class in one image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrcnn_jax.data.annotations import decode_counts
from mrcnn_jax.errors import DataError
from mrcnn_jax.evaluation.boxes_only import WITHOUT_MASK, find_matches
from mrcnn_jax.evaluation.coco_checks import check_results, checked_ground_truth

OVERLAPS = np.arange(0.5, 1.0, 0.05)
"""IoUs that a prediction must exceed, exactly the official numbers; above 0.5 it can match only one region."""

MIN_AREA = 100
"""Smallest number of pixels of an object that counts."""

Code = Mapping[str, Any]
"""A compressed run-length code."""


@dataclass(frozen=True)
class _Overlaps:
    """Overlaps of the predictions of one class in one image with the ground truth."""

    scores: np.ndarray  # [P]
    ious: np.ndarray  # [P, R]
    counts: np.ndarray  # [R] bool, True for objects that count
    ignorable: np.ndarray  # [P] share of the prediction on regions that do not count


def score_cityscapes(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns scores {"AP", "AP50", "categories": [{"id", "name", "AP", "AP50"}]} in 0..1, None if no object counts.

    Args:
        ground_truth: data set in COCO annotation format; crowds are group regions. An entry of `images` may contain
            the void of its image as a compressed run-length code under "void".
        results: COCO results whose segmentation is a compressed run-length code.

    Raises:
        DataError: an object, void or result is malformed; the message names the first.
    """
    ground_truth = checked_ground_truth(ground_truth)
    _check_void(ground_truth["images"])
    check_results(ground_truth, results, ("segm",))
    objects, predictions = _by_place(ground_truth["annotations"]), _by_place(results)
    categories = []
    for category in sorted(ground_truth["categories"], key=lambda category: category["id"]):
        overlaps = []
        for image in ground_truth["images"]:
            place = (image["id"], category["id"])
            overlaps.append(_compare(image, objects.get(place, []), predictions.get(place, [])))
        aps = [_score_class(overlaps, float(threshold)) for threshold in OVERLAPS]
        scores = {"AP": _mean(aps), "AP50": aps[0]}
        categories.append({"id": category["id"], "name": category["name"], **scores})
    return {name: _mean([row[name] for row in categories]) for name in ("AP", "AP50")} | {"categories": categories}


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _check_void(images: Sequence[Mapping[str, Any]]) -> None:
    for image in images:
        void = image.get("void")
        if void is None:
            continue
        image_hw = [image["height"], image["width"]]
        size, counts = (void.get("size"), void.get("counts")) if isinstance(void, Mapping) else (None, None)
        runs = decode_counts(counts) if isinstance(counts, str) else None
        if runs is None or size is None or list(size) != image_hw or runs.sum() != image_hw[0] * image_hw[1]:
            raise DataError(f"Image {image['id']}: expected void as a compressed run-length code of its size.")


def _by_place(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], list[Mapping[str, Any]]]:
    """Groups objects or results by (image id, category id)."""
    places: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        places.setdefault((row["image_id"], row["category_id"]), []).append(row)
    return places


def _compare(
    image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> _Overlaps:
    """Returns the overlaps of predictions and objects of one class in an image; empty predictions are left out."""
    from pycocotools import mask as coco_mask

    image_hw = (image["height"], image["width"])
    boxes_only = [row["bbox"] for row in objects if row.get(WITHOUT_MASK)]
    objects = [row for row in objects if not row.get(WITHOUT_MASK)]
    regions = [_encode(row["segmentation"], image_hw) for row in objects if not row["iscrowd"]]
    groups = [_encode(row["segmentation"], image_hw) for row in objects if row["iscrowd"]]
    if groups:
        regions.append(coco_mask.merge(groups))  # one region, as in the official label images
    is_group = np.arange(len(regions)) >= len(regions) - bool(groups)  # [R]
    codes = [row["segmentation"] for row in predictions]
    areas, region_areas = _areas(codes), _areas(regions)
    shared = _intersect(codes, regions, areas)  # [P, R]
    ious = shared / np.maximum(areas[:, None] + region_areas - shared, 1)
    is_small = region_areas < MIN_AREA
    # As in the official code, a group region below the limit is counted twice.
    ignorable = shared @ (is_group.astype(np.int64) + is_small)
    if image.get("void") is not None:
        ignorable += _intersect(codes, [image["void"]], areas)[:, 0]
    scores = np.array([row["score"] for row in predictions], np.float64)
    is_unjudged = find_matches([row["bbox"] for row in predictions], boxes_only).any(axis=1)  # [P]
    ignorable = np.where(is_unjudged, areas, ignorable)
    keep = areas > 0
    return _Overlaps(scores[keep], ious[keep], ~is_group & ~is_small, ignorable[keep] / areas[keep])


def _encode(segmentation: Any, image_hw: tuple[int, int]) -> Code:
    """Returns the compressed run-length code of a validated segmentation in any COCO format."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *image_hw))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *image_hw)
    return segmentation


def _areas(codes: Sequence[Code]) -> np.ndarray:
    """Returns the number of pixels of each code, int64 [N]."""
    from pycocotools import mask as coco_mask

    return np.array([coco_mask.area(code) for code in codes], np.int64)  # for a list of more than 255 it fails


def _intersect(codes: Sequence[Code], regions: Sequence[Code], areas: np.ndarray) -> np.ndarray:
    """Returns the common pixels, int64 [P, R], of regions and of predictions with these areas [P]."""
    from pycocotools import mask as coco_mask

    if not codes or not regions:
        return np.zeros((len(codes), len(regions)), np.int64)
    shares = coco_mask.iou(list(codes), list(regions), [1] * len(regions))  # for crowds, the share of the prediction
    return np.rint(np.where(areas[:, None] > 0, shares, 0) * areas[:, None]).astype(np.int64)


def _score_class(overlaps: Sequence[_Overlaps], threshold: float) -> float | None:
    """Returns the average precision of one class at one IoU over all images; None if no object counts."""
    num_objects = sum(int(image.counts.sum()) for image in overlaps)
    if num_objects == 0:
        return None
    right: list[float] = []
    wrong: list[float] = []
    for image in overlaps:
        fits = image.ious > threshold  # [P, R]
        for found in fits[:, image.counts].T:
            scores = sorted(image.scores[found].tolist())
            right += scores[-1:]
            wrong += scores[:-1]
        is_wrong = ~fits.any(axis=1) & (image.ignorable <= threshold)  # [P]
        wrong += image.scores[is_wrong].tolist()
    return _average_precision(np.array(right), np.array(wrong), num_objects)


def _average_precision(right: np.ndarray, wrong: np.ndarray, num_objects: int) -> float:
    """Returns the area under precision over recall, with a point per distinct score and one at recall 0, precision 1.

    The precision of a point applies up to half-way to each of its neighbours.
    """
    scores = np.unique(np.concatenate([right, wrong]))  # ascending
    num_right = len(right) - np.searchsorted(np.sort(right), scores)  # with this score or a better one
    num_wrong = len(wrong) - np.searchsorted(np.sort(wrong), scores)
    precision = np.append(num_right / (num_right + num_wrong), 1.0)
    recall = np.append(num_right / num_objects, 0.0)
    padded = np.pad(recall, 1, mode="edge")
    return float(precision @ (padded[:-2] - padded[2:]) / 2)


def format_scores(scores: Mapping[str, Any]) -> str:
    """Returns AP and AP50 as lines to print below the table of COCO's scores."""
    shown = {name: "  n/a" if scores[name] is None else f"{scores[name]:.3f}" for name in ("AP", "AP50")}
    return f"masks (cityscapes)\n AP = {shown['AP']}\n AP50 = {shown['AP50']}"
