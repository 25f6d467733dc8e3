"""Keypoint scores of any skeleton equal pycocotools', and models are scored for what they and the data have."""

import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.evaluation.category_matching import match_categories
from mrcnn_jax.evaluation.coco_metrics import format_table, score_results
from mrcnn_jax.evaluation.dataset_predictions import iou_types_of
from mrcnn_jax.inference.postprocessing import ImageDetections

PERSON = Category(1, "person", tuple(f"k{index}" for index in range(17)))
TYPES = ("bbox", "keypoints")
SIGMAS = (0.05, 0.1, 0.02, 0.2)
NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


def make_problem(seed: int, count: int = 17) -> tuple[dict, list]:
    """People with some keypoints hidden or all, crowds, and detections near to them with tied scores."""
    rng = np.random.default_rng(seed)
    images = [{"id": index, "height": 200, "width": 300, "file_name": f"{index}.jpg"} for index in range(1, 9)]
    annotations, results = [], []
    for image in images:
        for _ in range(int(rng.integers(0, 6))):
            x, y, width, height = *rng.uniform(0, 100, 2), *rng.uniform(20, 100, 2)
            points = np.stack([rng.uniform(x, x + width, count), rng.uniform(y, y + height, count)], axis=-1)
            seen = rng.integers(0, 3, count) * int(rng.random() < 0.8)
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
                moved = np.column_stack([points + rng.normal(0, 4, points.shape), rng.uniform(0, 1, count)])
                result = {"image_id": image["id"], "category_id": 1, "bbox": box, "keypoints": moved.ravel().tolist()}
                results.append(result | {"score": float(np.round(rng.random(), 1))})
    categories = [{"id": 1, "name": "person", "keypoints": [f"k{index}" for index in range(count)], "skeleton": []}]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def reference_scores(ground_truth: dict, results: list, sigmas: Sequence[float] = ()) -> list[float]:
    """pycocotools' ten numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes([dict(row) for row in results]), "keypoints")
        if sigmas:
            evaluator.params.kpt_oks_sigmas = np.array(sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats.tolist()


def found_scores(ground_truth: dict, results: list, sigmas: Sequence[float] = ()) -> list[float]:
    numbers = score_results(ground_truth, results, iou_types=TYPES, keypoint_sigmas=sigmas)["keypoints"]
    return [-1.0 if numbers[name] is None else numbers[name] for name in NAMES]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("count", [17, 4])
def test_equal_to_pycocotools(seed: int, count: int) -> None:
    sigmas = SIGMAS if count == 4 else ()
    expected = reference_scores(*make_problem(seed, count), sigmas)
    assert found_scores(*make_problem(seed, count), sigmas) == pytest.approx(expected, abs=1e-6)
    assert 0.05 < expected[0] < 0.95


def test_the_default_tolerances() -> None:
    problem = make_problem(0, 4)
    assert found_scores(*problem) == found_scores(*problem, [0.05] * 4) != found_scores(*problem, SIGMAS)
    problem = make_problem(0)
    own = [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
    assert found_scores(*problem) == found_scores(*problem, [value / 10 for value in own])
    assert found_scores(*problem) != found_scores(*problem, [0.05] * 17)
    for sigmas in ([0.05] * 3, [0.05] * 5):
        message = f"keypoint_sigmas: expected 4 values, one per keypoint, got {len(sigmas)}"
        with pytest.raises(ConfigError, match=message):
            score_results(*make_problem(0, 4), iou_types=TYPES, keypoint_sigmas=sigmas)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"test.keypoint_sigmas: expected a positive value"):
            TestConfig(keypoint_sigmas=(0.1, value))


def with_boxes_only(ground_truth: dict, results: list, category_id: int) -> tuple[dict, list]:
    """The same with another category without keypoints, which is never found right."""
    category = {"id": category_id, "name": "box"}
    first = ground_truth["annotations"][0]
    rest = {key: first[key] for key in ("image_id", "bbox", "area", "iscrowd", "segmentation")}
    box = rest | {"id": 1000, "category_id": category_id, "keypoints": [1.0] * 5}
    moved = [{**row, "category_id": category_id, "bbox": [0.0, 0.0, 1.0, 1.0]} for row in results[:5]]
    moved[0]["keypoints"], moved[1]["keypoints"] = None, [float("nan")]
    del moved[2]["keypoints"]
    truth = ground_truth | {"categories": [*ground_truth["categories"], category]}
    return truth | {"annotations": [*ground_truth["annotations"], box]}, [*moved, *results]


@pytest.mark.parametrize("category_id", [0, 9])
def test_only_categories_with_keypoints_count(category_id: int) -> None:
    expected = reference_scores(*make_problem(0, 4), SIGMAS)
    problem = with_boxes_only(*make_problem(0, 4), category_id)
    scores = score_results(*problem, iou_types=TYPES, keypoint_sigmas=SIGMAS)
    assert [scores["keypoints"][name] for name in NAMES] == pytest.approx(expected, abs=1e-6)
    by_id = {row["id"]: row for row in scores["categories"]}
    assert by_id[category_id] == {"id": category_id, "name": "box", "bbox": 0.0, "keypoints": None}
    assert by_id[1]["keypoints"] == scores["keypoints"]["AP"]


def test_several_categories_share_the_keypoints() -> None:
    """One of three has no objects; the mean is over the other two."""
    ground_truth, results = make_problem(0, 4)
    names = ground_truth["categories"][0]["keypoints"]
    ground_truth["categories"] = [{"id": id_, "name": f"{id_}", "keypoints": names} for id_ in (1, 3, 5)]
    for row in (*ground_truth["annotations"], *results):
        row["category_id"] = 5 if row["image_id"] % 2 else 1
    expected = reference_scores(copy.deepcopy(ground_truth), results, SIGMAS)
    assert found_scores(ground_truth, results, SIGMAS) == pytest.approx(expected, abs=1e-6)
    scores = score_results(ground_truth, results, iou_types=TYPES, keypoint_sigmas=SIGMAS)
    of_each = [row["keypoints"] for row in scores["categories"]]
    assert of_each[1] is None and scores["keypoints"]["AP"] == pytest.approx((of_each[0] + of_each[2]) / 2)


@pytest.mark.parametrize("count", [17, 4, 1])
def test_ground_truth_scores_one(count: int) -> None:
    ground_truth, _ = make_problem(3, count)
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
    ground_truth, results = make_problem(0, 4)
    for keypoints in (None, [1.0] * 11, [1.0] * 51, [float("nan")] * 12, "abcdefghijkl", ["1"] * 12):
        broken = [{**results[0], "keypoints": keypoints}]
        with pytest.raises(DataError, match="Result 0: expected keypoints as 4 times x, y, score"):
            score_results(ground_truth, broken, iou_types=TYPES)
    for keypoints in ([1.0] * 9, [1.0] * 11, [float("inf")] * 12, 5):
        objects = [{**ground_truth["annotations"][0], "keypoints": keypoints}]
        with pytest.raises(DataError, match=r"Ground truth, object 0 \(id 1\): .*keypoints"):
            score_results(ground_truth | {"annotations": objects}, [], iou_types=TYPES)


def test_objects_without_keypoints_are_ignored_and_categories_have_to_agree() -> None:
    ground_truth, results = make_problem(1, 4)
    bare = [row | {"keypoints": None} if not row["num_keypoints"] else row for row in ground_truth["annotations"]]
    assert any(row["keypoints"] is None for row in bare)
    assert found_scores(ground_truth | {"annotations": bare}, results) == found_scores(ground_truth, results)
    assert found_scores(ground_truth, [])[0] == 0.0
    with pytest.raises(DataError, match=r"keypoints, all with the same number, got \[\]"):
        found_scores(ground_truth | {"categories": [{"id": 1, "name": "person"}]}, results)
    two = [*ground_truth["categories"], {"id": 2, "name": "hand", "keypoints": ["tip"]}]
    with pytest.raises(DataError, match=r"keypoints, all with the same number, got \[1, 4\]"):
        found_scores(ground_truth | {"categories": two}, results)


def detections(mask_side: int, num_keypoints: int) -> ImageDetections:
    one = np.ones(1, np.float32)
    masks, keypoints = np.ones((1, mask_side, mask_side), np.float32), np.ones((1, num_keypoints, 3), np.float32)
    box = np.array([[1, 2, 5, 8]], np.float32)
    return ImageDetections(box, one, np.ones(1, int), masks, keypoints, (10, 10), TestConfig(), (PERSON,))


def test_what_is_scored_and_written_follows_the_heads() -> None:
    plain = (Category(1, "person"),)
    assert iou_types_of(detections(28, 17), (PERSON,)) == ["bbox", "segm", "keypoints"]
    assert iou_types_of(detections(0, 17), (PERSON,)) == ["bbox", "keypoints"]
    assert iou_types_of(detections(28, 17), plain) == ["bbox", "segm"]  # no keypoints in the data
    hand, two = Category(2, "hand", ("tip", "palm")), detections(0, 2)
    assert iou_types_of(two, (*plain, hand)) == ["bbox", "keypoints"] and iou_types_of(two, (PERSON,)) == ["bbox"]
    assert iou_types_of(detections(0, 0), plain) == ["bbox"]
    with pytest.raises(ConfigError, match="expected 2 values, one per keypoint, got 1"):
        iou_types_of(replace(two, test=TestConfig(keypoint_sigmas=(0.1,))), (hand,))
    (row,) = detections(0, 17).coco_results(7)
    assert row["keypoints"] == [0.5, 0.5, 1.0] * 17 and "segmentation" not in row
    (row,) = detections(28, 0).coco_results(7)
    assert set(row["segmentation"]) == {"size", "counts"} and "keypoints" not in row
    assert detections(0, 0).masks.shape == (1, 0, 0)


def test_unused_classes_of_the_weights_are_no_difference() -> None:
    data = (Category(1, "person"), Category(3, "car"))
    matched = match_categories((Category(1, "person"), Category(2, "N/A"), Category(3, "car")), data)
    assert matched.note == "" and [category.id for category in matched.categories] == [1, -2, 3]
    matched = match_categories((Category(1, "person"), Category(2, "bicycle"), Category(3, "car")), data)
    assert matched.only_weights == ("bicycle",) and matched.only_data == ()
    matched = match_categories((Category(1, "person"), Category(2, "N/A")), data)
    assert matched.only_weights == () and matched.only_data == ("car",)
