"""Scores equal pycocotools', for ties, crowds, missing classes and any number of detections."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_jax.evaluation.coco_metrics import format_table, score_results

CATEGORIES = [{"id": 3, "name": "disc"}, {"id": 7, "name": "bar"}, {"id": 90, "name": "never seen"}]


def _ellipse(rng, height, width):
    y, x = np.mgrid[:height, :width]
    radius_y, radius_x = rng.uniform(2, 0.4 * height), rng.uniform(2, 0.4 * width)
    centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
    return ((y + 0.5 - centre_y) / radius_y) ** 2 + ((x + 0.5 - centre_x) / radius_x) ** 2 < 1


def _encode(mask):
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def _uncompressed(mask):
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff(edges, prepend=0, append=mask.size).tolist()}


def make_problem(seed, num_images=8, objects=9, detections=30):
    """Ground truth with crowds, polygons and both codes, and results with score ties, some near to objects."""
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for index in range(num_images):
        height, width = (int(side) for side in rng.integers(90, 260, 2))
        images.append({"id": 100 - index, "height": height, "width": width, "file_name": f"{index}.jpg"})
        masks = []
        for k in range(objects if index else 0):  # the first image has no objects
            mask = _ellipse(rng, height, width)
            if not mask.any():
                continue
            box = [float(side) for side in coco_mask.toBbox(_encode(mask))]
            crowd = int(rng.random() < 0.15)
            x, y, w, h = box
            forms = [_encode(mask), _uncompressed(mask), [[x, y, x + w, y, x + w, y + h, x, y + h]]]
            category = 3 if rng.random() < 0.7 else 7
            annotations.append(
                {"id": len(annotations), "image_id": 100 - index, "category_id": category, "bbox": box}
                | {"area": float(mask.sum()), "iscrowd": crowd, "segmentation": forms[1 if crowd else k % 3]}
            )
            masks.append((mask, category))
        for _ in range(detections):
            if masks and rng.random() < 0.6:
                mask, category = masks[rng.integers(len(masks))]
                mask = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
            else:
                mask, category = _ellipse(rng, height, width), int(rng.choice([3, 7]))
            box = [float(side) for side in coco_mask.toBbox(_encode(mask))]
            score = float(np.round(rng.random(), 1))
            results.append({"image_id": 100 - index, "category_id": category, "bbox": box, "score": score})
            results[-1]["segmentation"] = _encode(mask)
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}, results


def pycocotools_eval(ground_truth, results, iou_type, max_dets):
    ground_truth = copy.deepcopy(ground_truth)
    for annotation in ground_truth["annotations"]:
        annotation["id"] += 1  # pycocotools, too, takes the id 0 for "not matched"
    dropped = "bbox" if iou_type == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = ground_truth
        coco.createIndex()
        found = coco.loadRes([{k: v for k, v in result.items() if k != dropped} for result in results])
        evaluator = COCOeval(coco, found, iou_type)
        evaluator.params.maxDets = max_dets
        evaluator.evaluate()
        evaluator.accumulate()
        if max_dets == [1, 10, 100]:
            evaluator.summarize()
    return evaluator


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_twelve_numbers_equal_pycocotools(seed, iou_type):
    ground_truth, results = make_problem(seed)
    scores = score_results(ground_truth, results, max_detections=100)[iou_type]
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert list(scores) == names
    ours = [-1.0 if scores[name] is None else scores[name] for name in names]
    np.testing.assert_allclose(ours, pycocotools_eval(ground_truth, results, iou_type, [1, 10, 100]).stats, atol=1e-6)
    assert 0.05 < scores["AP"] < 0.95


def test_more_than_100_detections_count_and_equal_pycocotools_arrays():
    ground_truth, results = make_problem(5, num_images=3, objects=40, detections=170)
    scores = score_results(ground_truth, results, max_detections=150)
    for iou_type in ("bbox", "segm"):
        expected = pycocotools_eval(ground_truth, results, iou_type, [1, 10, 100, 150]).eval
        precision, recall = expected["precision"][:, :, :, 0, 3], expected["recall"]
        assert scores[iou_type]["AP"] == pytest.approx(precision[precision > -1].mean(), abs=1e-6)
        for name, m in (("AR100", 2), ("AR150", 3)):
            values = recall[:, :, 0, m]
            assert scores[iou_type][name] == pytest.approx(values[values > -1].mean(), abs=1e-6)
        assert scores[iou_type]["AR150"] > scores[iou_type]["AR10"]
        for k, category in enumerate(scores["categories"]):
            values = expected["precision"][:, :, k, 0, 3]
            expected_ap = pytest.approx(values.mean(), abs=1e-6) if (values > -1).all() else None
            assert category[iou_type] == expected_ap


def test_ground_truth_as_results_scores_one_and_absent_classes_and_sizes_have_no_score():
    ground_truth, _ = make_problem(2)
    for annotation in ground_truth["annotations"]:
        annotation["segmentation"] = _as_code(annotation, ground_truth)
    results = [
        {k: row[k] for k in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 1.0}
        for row in ground_truth["annotations"]
        if not row["iscrowd"]
    ]
    scores = score_results(ground_truth, results, max_detections=100)
    for iou_type in ("bbox", "segm"):
        present = [scores[iou_type][name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")]
        assert present == [pytest.approx(1.0)] * 7
        assert [row[iou_type] for row in scores["categories"]] == [pytest.approx(1.0), pytest.approx(1.0), None]


def _as_code(annotation, ground_truth):
    image = next(image for image in ground_truth["images"] if image["id"] == annotation["image_id"])
    form, (height, width) = annotation["segmentation"], (image["height"], image["width"])
    if isinstance(form, list):
        form = coco_mask.merge(coco_mask.frPyObjects(form, height, width))
    elif isinstance(form["counts"], list):
        form = coco_mask.frPyObjects(form, height, width)
    return {
        "size": [height, width],
        "counts": form["counts"].decode() if isinstance(form["counts"], bytes) else form["counts"],
    }


def test_no_results_score_zero_and_no_objects_score_nothing():
    ground_truth, results = make_problem(3)
    scores = score_results(ground_truth, [], max_detections=100)
    assert scores["bbox"]["AP"] == scores["segm"]["AP"] == scores["segm"]["AR100"] == 0.0
    empty = score_results(ground_truth | {"annotations": []}, results, max_detections=100)
    assert set(empty["segm"].values()) == {None}
    assert "n/a" in format_table(empty)


def test_the_inputs_stay_as_they_were():
    ground_truth, results = make_problem(4, num_images=2)
    before = copy.deepcopy((ground_truth, results))
    score_results(ground_truth, results, max_detections=100)
    assert (ground_truth, results) == before


def test_the_table_shows_every_number_of_both_kinds():
    ground_truth, results = make_problem(0)
    table = format_table(score_results(ground_truth, results, max_detections=500))
    assert table.count("Average Precision") == 12 and table.count("Average Recall") == 14
    assert "area= small | maxDets= 500" in table and "IoU=0.50      | area=   all" in table
