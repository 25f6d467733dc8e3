"""COCO box, mask and keypoint scores of a list of results, for any number of detections per image.

The library faster_coco_eval matches and accumulates; it has the results of pycocotools and is faster. Its arrays are
summarised here, because its own summary is limited to 100 detections. All input is checked before it reaches the
libraries' C code, which crashes on malformed input.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.evaluation.boxes_only import WITHOUT_MASK, as_ignored, with_ignored
from mrcnn_jax.evaluation.coco_checks import check_results, checked_ground_truth, count_keypoints

IOU_TYPES = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
"""Types of scores, named as in pycocotools, and their titles in tables."""
COCO_MAX_DETECTIONS = (1, 10, 100)
AREA_RANGES = ("all", "small", "medium", "large")
KEYPOINT_AREA_RANGES = ("all", "medium", "large")
KEYPOINT_MAX_DETECTIONS = 20
"""COCO's rule for keypoints: only this many people per image count, and small ones are not annotated."""
COCO_SIGMAS = (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)
"""COCO's tolerances for a person's 17 keypoints, in thousandths of the person's size."""
DEFAULT_SIGMA = 0.05
"""Default tolerance for all other keypoints."""

Scores = dict[str, float | None]
"""Scores in 0..1 by name, such as AP50; None if no object of the ground truth is in the range of the score."""


def score_results(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    max_detections: int = 100,
    iou_types: Sequence[str] = ("bbox", "segm"),
    keypoint_sigmas: Sequence[float] = (),
) -> dict[str, Any]:
    """Returns COCO scores {"bbox": Scores, "segm": Scores, "categories": [{"id", "name", "bbox": AP, "segm": AP}]}.

    AP and the recalls by size count up to max(100, max_detections) detections per image and category, like the
    last of the AR numbers (AR1, AR10, AR100 and, above 100, AR<max_detections>). Objects without a segmentation are
    ignored for masks, as `boxes_only` describes.

    Args:
        ground_truth: data set in COCO annotation format, without the objects of images that were not evaluated,
            which would count as missed.
        results: COCO results with image_id, category_id, bbox [x, y, width, height], score and segmentation, a
            compressed run-length code, and for "keypoints" x, y, score of each keypoint of its category.
        iou_types: scores to compute: "bbox", "segm", "keypoints". For "keypoints" only categories with keypoints count,
            and all of them need the same number.
        keypoint_sigmas: as in TestConfig.

    Raises:
        DataError: an object or result is malformed; the message has the index of the first.
        ConfigError: the number of sigmas is not that of the keypoints.
    """
    ground_truth = checked_ground_truth(ground_truth)
    check_results(ground_truth, results, iou_types)
    limits = sorted({*COCO_MAX_DETECTIONS, max(max_detections, COCO_MAX_DETECTIONS[-1])})
    scores: dict[str, Any] = {}
    per_category = {}
    category_ids = sorted(category["id"] for category in ground_truth["categories"])
    for iou_type in iou_types:
        if iou_type == "keypoints":
            sigmas = choose_sigmas(keypoint_sigmas, _number_of_keypoints(ground_truth))
            counted = sorted(count_keypoints(ground_truth))
            precision, recall = _accumulate(ground_truth, results, iou_type, [KEYPOINT_MAX_DETECTIONS], counted, sigmas)
            scores[iou_type] = _summarise_keypoints(precision, recall)
        else:
            counted = category_ids
            precision, recall = _accumulate(ground_truth, results, iou_type, limits, counted)
            scores[iou_type] = _summarise(precision, recall, limits)
        per_category[iou_type] = {id_: _mean(precision[:, :, k, 0, -1]) for k, id_ in enumerate(counted)}
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    scores["categories"] = [
        {"id": category["id"], "name": category["name"]}
        | {iou_type: per_category[iou_type].get(category["id"]) for iou_type in iou_types}
        for category in categories
    ]
    return scores


def choose_sigmas(sigmas: Sequence[float], num_keypoints: int) -> tuple[float, ...]:
    """Returns the tolerances, by default COCO's for 17 keypoints, else DEFAULT_SIGMA; ConfigError for a wrong count."""
    if sigmas and len(sigmas) != num_keypoints:
        raise ConfigError(
            f"test.keypoint_sigmas: expected {num_keypoints} values, one per keypoint, got {len(sigmas)}."
        )
    if not sigmas and num_keypoints == len(COCO_SIGMAS):
        return tuple(sigma / 1000 for sigma in COCO_SIGMAS)
    return tuple(sigmas) or (DEFAULT_SIGMA,) * num_keypoints


def _number_of_keypoints(ground_truth: Mapping[str, Any]) -> int:
    numbers = set(count_keypoints(ground_truth).values())
    if len(numbers) != 1:
        raise DataError(f"Expected categories with keypoints, all with the same number, got {sorted(numbers)}.")
    return numbers.pop()


def _accumulate(
    ground_truth: dict[str, Any],
    results: Sequence[Mapping[str, Any]],
    iou_type: str,
    limits: list[int],
    category_ids: list[int],
    sigmas: Sequence[float] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Returns precision [T, R, K, A, M] and recall [T, K, A, M] by IoU, recall, category, size, limit; -1: no data."""
    from faster_coco_eval import COCO, COCOeval_faster

    # The area of a result is that of its box if it has one; without, that of its mask, as on COCO's server.
    shapes = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("keypoints", "bbox")}[iou_type]
    counted = set(category_ids)
    rows = [
        {key: result[key] for key in ("image_id", "category_id", "score", *shapes)}
        for result in results
        if result["category_id"] in counted
    ]
    annotations = COCO(as_ignored(ground_truth) if iou_type == "segm" else ground_truth, use_deepcopy=True)
    evaluator = COCOeval_faster(annotations, annotations.loadRes(rows), iouType=iou_type)
    if iou_type == "segm" and any(row.get(WITHOUT_MASK) for row in ground_truth["annotations"]):
        boxes = [result["bbox"] for result in results if result["category_id"] in counted]
        evaluator.computeIoU = with_ignored(evaluator.computeIoU, evaluator, boxes)
    evaluator.params.maxDets = limits
    evaluator.params.catIds = category_ids  # for keypoints, the default is only the categories of objects
    if sigmas:
        evaluator.params.kpt_oks_sigmas = np.asarray(sigmas)
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def _summarise(precision: np.ndarray, recall: np.ndarray, limits: list[int]) -> Scores:
    scores = {"AP": _mean(precision[:, :, :, 0, -1])}
    scores |= {"AP50": _mean(precision[0, :, :, 0, -1]), "AP75": _mean(precision[5, :, :, 0, -1])}
    scores |= {f"AP{AREA_RANGES[a][0]}": _mean(precision[:, :, :, a, -1]) for a in (1, 2, 3)}
    scores |= {f"AR{limit}": _mean(recall[:, :, 0, m]) for m, limit in enumerate(limits)}
    scores |= {f"AR{AREA_RANGES[a][0]}": _mean(recall[:, :, a, -1]) for a in (1, 2, 3)}
    return scores


def _summarise_keypoints(precision: np.ndarray, recall: np.ndarray) -> Scores:
    scores = {"AP": _mean(precision[:, :, :, 0]), "AP50": _mean(precision[0, :, :, 0])}
    scores |= {"AP75": _mean(precision[5, :, :, 0])}
    scores |= {f"AP{area[0]}": _mean(precision[:, :, :, a]) for a, area in enumerate(KEYPOINT_AREA_RANGES) if a}
    scores |= {"AR": _mean(recall[:, :, 0]), "AR50": _mean(recall[0, :, 0]), "AR75": _mean(recall[5, :, 0])}
    return scores | {f"AR{area[0]}": _mean(recall[:, :, a]) for a, area in enumerate(KEYPOINT_AREA_RANGES) if a}


def _mean(values: np.ndarray) -> float | None:
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def format_table(scores: Mapping[str, Any]) -> str:
    """Returns the scores as a table like that of COCO's tools, with a block for boxes, masks and keypoints each."""
    blocks = []
    for iou_type, title in IOU_TYPES.items():
        if iou_type not in scores:
            continue
        numbers: Scores = scores[iou_type]
        of_points = iou_type == "keypoints"
        counted = [int(name[2:]) for name in numbers if name[2:].isdigit() and name.startswith("AR")]
        last = KEYPOINT_MAX_DETECTIONS if of_points else max(counted)
        lines = [f"{title} ({iou_type})"]
        for name, value in numbers.items():
            kind = "Average Precision  (AP)" if name.startswith("AP") else "Average Recall     (AR)"
            suffix = name[2:]
            is_single = name.startswith("AP") or of_points
            iou = {"50": "0.50", "75": "0.75"}.get(suffix, "0.50:0.95") if is_single else "0.50:0.95"
            area = next((area for area in AREA_RANGES[1:] if area[0] == suffix), "all")
            limit = last if is_single or not suffix.isdigit() else int(suffix)
            shown = "  n/a" if value is None else f"{value:.3f}"
            lines.append(f" {kind} @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>4} ] = {shown}")
        blocks.append("\n".join(lines))
    return "\n".join(blocks)
