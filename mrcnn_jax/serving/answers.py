"""The JSON objects that the server answers with."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.inference.image_proposals import ImageProposals
from mrcnn_jax.serving.batching import Found
from mrcnn_jax.serving.uploads import MEGA, Limits
from mrcnn_jax.visualization.overlays import KEYPOINT_SCORE

MAX_PROPOSALS = 100
"""The best proposals that an answer contains."""


def describe_found(found: Found, score: float, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the answer of /predict, with the detections whose score is at least `score`, best first.

    Boxes are [x0, y0, x1, y1] and keypoints [x, y, score] in pixels of the upright image, where the first pixel covers
    0..1. Masks are COCO's compressed run-length codes. Models without these heads have no "mask" or "keypoints".
    With proposals, there are also the best of them and the probabilities of the masks.
    """
    kept = found.detections.select(found.detections.scores >= score)
    columns = (kept.category_names, kept.coco_results(0), kept.boxes, kept.keypoints, kept.mask_probabilities)
    detections = []
    for name, result, box, keypoints, probabilities in zip(*columns, strict=True):
        row = {
            "category_id": result["category_id"],
            "category": name,
            "score": round(result["score"], 6),
            "box": [round(side, 3) for side in box.tolist()],
        }
        if "segmentation" in result:
            row["mask"] = result["segmentation"]
            if found.proposals is not None:
                row["mask_probabilities"] = describe_probabilities(probabilities)
        if "keypoints" in result:
            row["keypoints"] = [[round(value, 3) for value in point] for point in keypoints.tolist()]
        detections.append(row)
    height, width = kept.image_hw
    answer = {"image": {"height": height, "width": width}, "detections": detections, "notes": list(notes)}
    if found.proposals is not None:
        answer["proposals"] = describe_proposals(found.proposals)
    return answer


def describe_probabilities(probabilities: np.ndarray) -> dict[str, Any]:
    """Returns mask probabilities, float32 [m, m], as m and m x m bytes in base64: 0..1 as 0..255, row by row."""
    values = np.round(255 * probabilities).astype(np.uint8)
    return {"side": len(values), "values": base64.b64encode(values.tobytes()).decode()}


def describe_proposals(proposals: ImageProposals) -> list[dict[str, Any]]:
    """Returns the best proposals, best first."""
    return [
        {"box": [round(side, 3) for side in box.tolist()], "objectness": round(objectness, 6)}
        for box, objectness in zip(proposals.boxes[:MAX_PROPOSALS], proposals.objectness.tolist(), strict=False)
    ]


def describe_model(categories: Sequence[Category], test_config: TestConfig, limits: Limits) -> dict[str, Any]:
    """Returns what the page needs to know of the model and the server, without any path."""
    return {
        "categories": [
            {"id": category.id, "name": category.name, "skeleton": [list(bone) for bone in category.skeleton]}
            for category in categories
        ],
        "score_threshold": test_config.score_threshold,
        "keypoint_score": KEYPOINT_SCORE,
        "batch_size": test_config.batch_size,
        "max_megabytes": limits.max_bytes / MEGA,
        "max_megapixels": limits.max_pixels / MEGA,
    }
