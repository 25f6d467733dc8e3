"""The rule for objects without a mask when masks are scored: they are ignored.

Such an object counts neither as found nor as missed, and a detection of its class whose box has an IoU of at least
MATCH_IOU with its box is not counted as false, at any IoU threshold, because its mask cannot be judged. A detection
that matches an object with a mask counts as correct as usual, since such objects are matched first. For boxes and
keypoints, objects without a mask count like all others.

Shapes: D detections, G objects.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mrcnn_jax.data.annotations import has_mask

MATCH_IOU = 0.5
"""IoU of boxes from which on a detection is taken for an object without a mask: the lowest threshold of COCO's AP."""

WITHOUT_MASK = "without_mask"
"""Key that marks checked objects whose segmentation is only their box."""


def find_matches(detections: Sequence[Sequence[float]], objects: Sequence[Sequence[float]]) -> np.ndarray:
    """Returns whether the boxes of detections and of objects (x, y, width, height) match, bool [D, G]."""
    from pycocotools import mask as coco_mask

    if not detections or not objects:
        return np.zeros((len(detections), len(objects)), np.bool_)
    pairs = [np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (detections, objects)]
    return np.asarray(coco_mask.iou(*pairs, [0] * len(objects))) >= MATCH_IOU


def as_ignored(ground_truth: Mapping[str, Any]) -> dict[str, Any]:
    """Returns checked ground truth for the scores of masks: objects without a mask become crowds, which are ignored."""
    annotations = [{**row, "iscrowd": 1} if row.get(WITHOUT_MASK) else row for row in ground_truth["annotations"]]
    return {**ground_truth, "annotations": annotations}


def with_ignored(compute: Callable[..., Any], evaluator: Any, boxes: Sequence[Sequence[float]]) -> Callable[..., Any]:
    """Returns `compute`, the evaluator's overlaps of masks, with the rule above for the objects without a mask.

    The overlap of such an object with a detection is 1 if their boxes match, else 0. `boxes` are those of the results,
    in the order of their ids from 1.
    """

    def compute_with_ignored(image_id: int, category_id: int) -> Any:
        overlaps = compute(image_id, category_id)  # [D, G], or an empty list
        objects, detections = (
            dataset.get_instances([image_id], [category_id], True)[0][0]
            for dataset in (evaluator.gt_dataset, evaluator.dt_dataset)
        )
        columns = [index for index, row in enumerate(objects) if row.get(WITHOUT_MASK)]
        if len(overlaps) == 0 or not columns:
            return overlaps
        # As the evaluator: best first, ties in the order of the results, and no more than the limit.
        order = np.argsort([-row["score"] for row in detections], kind="mergesort")[: len(overlaps)]
        of_detections = [boxes[detections[index]["id"] - 1] for index in order]
        overlaps = np.array(overlaps)
        overlaps[:, columns] = find_matches(of_detections, [objects[index]["bbox"] for index in columns])
        return overlaps

    return compute_with_ignored


def describe_boxes_only(annotations: Sequence[Mapping[str, Any]]) -> str:
    """Returns one line on the objects without a mask, and on why masks have no scores if there are only such objects.

    Returns "" if all objects have a mask.
    """
    masks = [has_mask(row) for row in annotations if not row.get("iscrowd")]
    if all(masks):
        return ""
    if not any(masks):
        return f"masks: n/a, because none of the {len(masks)} objects has a mask"
    num_ignored = len(masks) - sum(masks)
    return f"{num_ignored} of {len(masks)} objects have no mask: they count for boxes and are ignored for masks"
