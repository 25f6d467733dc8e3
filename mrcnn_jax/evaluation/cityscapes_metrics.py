"""Cityscapes' average precision of object masks, as its evaluation server defines it.

What differs from COCO's: every prediction is compared with every object, without an order of matching; of several that
fit one object, the best scored is right and the others are wrong; recall is not interpolated; objects below 100 pixels
do not count. A prediction that fits nothing is not wrong if most of it lies on group regions of its class (the crowds
of the ground truth), on objects that do not count, or on void: pixels of labels that are not evaluated at all, such as
the car that carries the camera. Prepared data sets do not keep void. Without it a prediction there counts as wrong, so
that scores are the same or a little lower than the server's.

Shapes: P predictions, R regions (objects and the group region) of one class in one image; E predictions that count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrcnn_jax.data.annotations import decode_counts
from mrcnn_jax.errors import DataError
from mrcnn_jax.evaluation.coco_checks import check_results, checked_ground_truth

OVERLAPS = np.arange(0.5, 1.0, 0.05)
"""IoUs that a prediction must exceed, exactly the official numbers; at 0.5 and more it can fit one region only."""

MIN_AREA = 100
"""Pixels of an object that counts."""

Code = Mapping[str, Any]
"""A compressed run-length code."""


@dataclass(frozen=True)
class _Overlaps:
    """How the predictions of one class in one image lie on the ground truth."""

    scores: np.ndarray  # [P]
    ious: np.ndarray  # [P, R]
    counts: np.ndarray  # [R] bool: an object that must be found
    ignorable: np.ndarray  # [P] share of the prediction on what does not count


def score_cityscapes(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores {"AP", "AP50", "categories": [{"id", "name", "AP", "AP50"}]} in 0..1; None where no object counts.

    Args:
        ground_truth: data set in COCO annotation format; crowds are group regions. An entry of `images` may hold the
            void of its image as a compressed run-length code under "void".
        results: COCO results whose segmentation is a compressed run-length code.

    Raises:
        DataError: the first malformed object, void or result.
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
    """Objects or results by (image id, category id)."""
    places: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        places.setdefault((row["image_id"], row["category_id"]), []).append(row)
    return places


def _compare(
    image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> _Overlaps:
    """How predictions of one class lie on the objects of that class in the same image; empty ones are left out."""
    from pycocotools import mask as coco_mask

    image_hw = (image["height"], image["width"])
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
    # As in the official code, a group region below the limit counts for both of its reasons.
    ignorable = shared @ (is_group.astype(np.int64) + is_small)
    if image.get("void") is not None:
        ignorable += _intersect(codes, [image["void"]], areas)[:, 0]
    scores = np.array([row["score"] for row in predictions], np.float64)
    keep = areas > 0
    return _Overlaps(scores[keep], ious[keep], ~is_group & ~is_small, ignorable[keep] / areas[keep])


def _encode(segmentation: Any, image_hw: tuple[int, int]) -> Code:
    """The compressed run-length code of a validated segmentation of any COCO form."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *image_hw))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *image_hw)
    return segmentation


def _areas(codes: Sequence[Code]) -> np.ndarray:
    """Pixels int64 [N] of the codes."""
    from pycocotools import mask as coco_mask

    return np.array([coco_mask.area(code) for code in codes], np.int64)  # of a list it fails for more than 255


def _intersect(codes: Sequence[Code], regions: Sequence[Code], areas: np.ndarray) -> np.ndarray:
    """Common pixels int64 [P, R] of predictions, whose areas [P] are known, and regions."""
    from pycocotools import mask as coco_mask

    if not codes or not regions:
        return np.zeros((len(codes), len(regions)), np.int64)
    shares = coco_mask.iou(list(codes), list(regions), [1] * len(regions))  # of a crowd: share of the prediction
    return np.rint(np.where(areas[:, None] > 0, shares, 0) * areas[:, None]).astype(np.int64)


def _score_class(overlaps: Sequence[_Overlaps], threshold: float) -> float | None:
    """Average precision of one class at one IoU, from all images; None where no object counts."""
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
    """Area under precision over recall, with a point for each distinct score and one at recall 0, precision 1.

    A point's precision holds for half of the way to each of its neighbours.
    """
    scores = np.unique(np.concatenate([right, wrong]))  # ascending
    num_right = len(right) - np.searchsorted(np.sort(right), scores)  # of this score or better
    num_wrong = len(wrong) - np.searchsorted(np.sort(wrong), scores)
    precision = np.append(num_right / (num_right + num_wrong), 1.0)
    recall = np.append(num_right / num_objects, 0.0)
    padded = np.pad(recall, 1, mode="edge")
    return float(precision @ (padded[:-2] - padded[2:]) / 2)


def format_scores(scores: Mapping[str, Any]) -> str:
    """AP and AP50 as two lines below the table of COCO's scores."""
    shown = {name: "  n/a" if scores[name] is None else f"{scores[name]:.3f}" for name in ("AP", "AP50")}
    return f"masks (cityscapes)\n AP = {shown['AP']}\n AP50 = {shown['AP50']}"
