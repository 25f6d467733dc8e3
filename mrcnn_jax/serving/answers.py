"""The JSON objects that the server answers with."""

from collections.abc import Sequence
from typing import Any

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.serving.uploads import MEGA, Limits
from mrcnn_jax.visualization.overlays import KEYPOINT_SCORE


def describe_detections(found: ImageDetections, score: float, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the answer of /predict, with the detections whose score is at least `score`, best first.

    Boxes are [x0, y0, x1, y1] and keypoints [x, y, score] in pixels of the upright image, where the first pixel covers
    0..1. Masks are COCO's compressed run-length codes. Models without these heads have no "mask" or "keypoints".
    """
    found = found.select(found.scores >= score)
    rows = zip(found.category_names, found.coco_results(0), found.boxes, found.keypoints, strict=True)
    detections = []
    for name, result, box, keypoints in rows:
        row = {
            "category_id": result["category_id"],
            "category": name,
            "score": round(result["score"], 6),
            "box": [round(side, 3) for side in box.tolist()],
        }
        if "segmentation" in result:
            row["mask"] = result["segmentation"]
        if "keypoints" in result:
            row["keypoints"] = [[round(value, 3) for value in point] for point in keypoints.tolist()]
        detections.append(row)
    height, width = found.image_hw
    return {"image": {"height": height, "width": width}, "detections": detections, "notes": list(notes)}


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
