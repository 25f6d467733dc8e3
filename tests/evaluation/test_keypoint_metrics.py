"""Keypoint scores equal pycocotools', and models without masks or with unused classes are scored for what they have."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.evaluation.coco_metrics import format_table, score_results
from mrcnn_jax.evaluation.evaluate import check_categories, iou_types_of
from mrcnn_jax.evaluation.restore import PictureDetections
from mrcnn_jax.structures import Category

PERSON = Category(1, "person", tuple(f"k{index}" for index in range(17)))
TYPES = ("bbox", "keypoints")
NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def make_problem(seed: int) -> tuple[dict, list]:
    """People with some keypoints hidden or all, crowds, and detections near to them with tied scores."""
    rng = np.random.default_rng(seed)
    images = [{"id": index, "height": 200, "width": 300, "file_name": f"{index}.jpg"} for index in range(1, 9)]
    annotations, results = [], []
    for image in images:
        for _ in range(int(rng.integers(0, 6))):
            x, y, width, height = *rng.uniform(0, 100, 2), *rng.uniform(20, 100, 2)
            points = np.stack([rng.uniform(x, x + width, 17), rng.uniform(y, y + height, 17)], axis=-1)
            seen = rng.integers(0, 3, 17) * int(rng.random() < 0.8)
            box = [float(value) for value in (x, y, width, height)]
            polygon = [float(v) for v in (x, y, x + width, y, x + width, y + height, x, y + height)]
            keypoints = np.column_stack([points * (seen > 0)[:, None], seen]).ravel().tolist()
            annotation = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": 1, "bbox": box}
            annotation |= {
                "area": float(width * height) * float(rng.uniform(0.3, 2.5)),
                "iscrowd": 0,
                "segmentation": [polygon],
            }
            annotations.append(annotation | {"keypoints": keypoints, "num_keypoints": int((seen > 0).sum())})
            for _ in range(2):
                moved = np.column_stack([points + rng.normal(0, 4, points.shape), rng.uniform(0, 1, 17)])
                result = {"image_id": image["id"], "category_id": 1, "bbox": box, "keypoints": moved.ravel().tolist()}
                results.append(result | {"score": float(np.round(rng.random(), 1))})
    categories = [{"id": 1, "name": "person", "keypoints": list(PERSON.keypoints), "skeleton": []}]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def reference_scores(ground_truth: dict, results: list) -> list[float]:
    """pycocotools' ten numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes([dict(row) for row in results]), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats.tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_to_pycocotools(seed: int) -> None:
    ground_truth, results = make_problem(seed)
    scores = score_results(ground_truth, results, iou_types=TYPES)
    found = [-1.0 if scores["keypoints"][name] is None else scores["keypoints"][name] for name in NAMES]
    expected = reference_scores(*make_problem(seed))
    assert found == pytest.approx(expected, abs=1e-6) and 0.05 < expected[0] < 0.95


def test_ground_truth_scores_one() -> None:
    ground_truth, _ = make_problem(3)
    rows = [
        {key: row[key] for key in ("image_id", "category_id", "bbox", "keypoints")} | {"score": 1.0}
        for row in ground_truth["annotations"]
        if row["num_keypoints"]
    ]
    scores = score_results(ground_truth, rows, iou_types=TYPES)
    assert scores["keypoints"]["AP"] == scores["keypoints"]["AR"] == 1.0
    table = format_table(scores)
    assert "keypoints (keypoints)" in table and "masks" not in table and "maxDets=  20" in table


def test_malformed_keypoints_are_refused() -> None:
    ground_truth, results = make_problem(0)
    for keypoints in (None, [1.0] * 50, [float("nan")] * 51):
        broken = [{**results[0], "keypoints": keypoints}]
        with pytest.raises(DataError, match="Result 0: expected keypoints as 17 times x, y, score"):
            score_results(ground_truth, broken, iou_types=TYPES)


def detections(mask_side: int, num_keypoints: int) -> PictureDetections:
    one = np.ones(1, np.float32)
    masks, keypoints = np.ones((1, mask_side, mask_side), np.float32), np.ones((1, num_keypoints, 3), np.float32)
    box = np.array([[1, 2, 5, 8]], np.float32)
    return PictureDetections(box, one, np.ones(1, int), masks, keypoints, (10, 10), TestConfig(), (PERSON,))


def test_what_is_scored_and_written_follows_the_heads() -> None:
    plain = (Category(1, "person"),)
    assert iou_types_of(detections(28, 17), (PERSON,)) == ["bbox", "segm", "keypoints"]
    assert iou_types_of(detections(0, 17), (PERSON,)) == ["bbox", "keypoints"]
    assert iou_types_of(detections(28, 17), plain) == ["bbox", "segm"]  # no keypoints in the data
    (row,) = detections(0, 17).coco_results(7)
    assert row["keypoints"] == [0.5, 0.5, 1.0] * 17 and "segmentation" not in row
    (row,) = detections(28, 0).coco_results(7)
    assert set(row["segmentation"]) == {"size", "counts"} and "keypoints" not in row
    assert detections(0, 0).masks.shape == (1, 0, 0)


def test_unused_classes_of_the_weights_are_no_difference() -> None:
    data = (Category(1, "person"), Category(3, "car"))
    check_categories((Category(1, "person"), Category(2, "N/A"), Category(3, "car")), data)
    with pytest.raises(ConfigError, match="id 2: bicycle and none"):
        check_categories((Category(1, "person"), Category(2, "bicycle"), Category(3, "car")), data)
    with pytest.raises(ConfigError, match="id 3: none and car"):
        check_categories((Category(1, "person"), Category(2, "N/A")), data)
