"""Objects without a mask count for boxes and keypoints and are ignored for masks: by hand, and against pycocotools."""

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_jax.evaluation.boxes_only import describe_boxes_only
from mrcnn_jax.evaluation.cityscapes_metrics import score_cityscapes
from mrcnn_jax.evaluation.coco_metrics import format_table, score_results
from mrcnn_jax.evaluation.evaluate import evaluate
from tests.evaluation.test_coco_metrics import make_problem
from tests.evaluation.test_evaluate import TEST, Images, RectangleFinder

Box = tuple[int, int, int, int]
"""x, y, width, height."""

FIRST, SECOND, ELSEWHERE = (10, 10, 40, 40), (60, 10, 30, 50), (10, 70, 20, 20)


def code_of(box: Box) -> dict[str, Any]:
    x, y, width, height = box
    mask = np.zeros((100, 100), np.uint8)
    mask[y : y + height, x : x + width] = 1
    return {"size": [100, 100], "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode()}


def detect(box: Box, score: float, mask: Box | None = None, category_id: int = 1) -> dict[str, Any]:
    """A result with the mask of a rectangle, by default its box."""
    row = {"image_id": 1, "category_id": category_id, "bbox": list(box), "score": score}
    return row | {"segmentation": code_of(mask or box)}


def truth_of(*objects: tuple[Box, bool], **more: Any) -> dict[str, Any]:
    """Rectangles, each with its box and whether it has a mask."""
    annotations = [
        {"id": index, "image_id": 1, "category_id": 1, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0}
        | ({"segmentation": code_of(box)} if has_mask else {})
        | more
        for index, (box, has_mask) in enumerate(objects)
    ]
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}]
    return {"images": [{"id": 1, "height": 100, "width": 100}], "annotations": annotations, "categories": categories}


ONE_OF_EACH = truth_of((FIRST, True), (SECOND, False))


def ap(truth: dict[str, Any], *results: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    """AP of boxes, of masks, and of masks as in Cityscapes."""
    scores = score_results(truth, results)
    return scores["bbox"]["AP"], scores["segm"]["AP"], score_cityscapes(truth, results)["AP"]


def test_a_detection_of_an_object_without_mask_is_not_false_whatever_its_mask() -> None:
    better = detect(SECOND, 0.9, mask=ELSEWHERE)
    assert ap(ONE_OF_EACH, better, detect(FIRST, 0.8)) == pytest.approx((1, 1, 1))
    # A box with an IoU of 0.5 is enough, at all thresholds: nobody knows how good the mask is.
    half = detect((60, 10, 30, 25), 0.9)
    assert ap(ONE_OF_EACH, half, detect(FIRST, 0.8))[1:] == pytest.approx((1, 1))
    several = [detect(SECOND, score) for score in (0.97, 0.96, 0.95)]
    assert ap(ONE_OF_EACH, *several, detect(FIRST, 0.8))[1:] == pytest.approx((1, 1))


@pytest.mark.parametrize(
    "false", [detect((60, 10, 30, 24), 0.9), detect((65, 15, 10, 10), 0.9), detect(ELSEWHERE, 0.9)]
)
def test_other_detections_are_false_as_ever(false: dict[str, Any]) -> None:
    _, masks, cityscapes = ap(ONE_OF_EACH, false, detect(FIRST, 0.8))
    assert masks == pytest.approx(0.5) and cityscapes is not None and cityscapes < 0.9
    assert (masks, cityscapes) == ap(truth_of((FIRST, True)), false, detect(FIRST, 0.8))[1:]


def test_of_another_class_it_is_false() -> None:
    annotations = truth_of((FIRST, True))["annotations"]
    other = annotations[0] | {"category_id": 2, "id": 7}
    truth = ONE_OF_EACH | {"annotations": [*ONE_OF_EACH["annotations"], other]}
    results = (detect(SECOND, 0.9, category_id=2), detect(FIRST, 0.8), detect(FIRST, 0.8, category_id=2))
    assert ap(truth, *results)[1] == pytest.approx((1 + 0.5) / 2)


def test_a_missed_object_without_mask_costs_boxes_only() -> None:
    boxes, masks, cityscapes = ap(ONE_OF_EACH, detect(FIRST, 0.8))
    assert boxes == pytest.approx(51 / 101) and (masks, cityscapes) == pytest.approx((1, 1))


def test_objects_with_a_mask_are_matched_first() -> None:
    """Two objects share a box: the detection counts for the one with a mask, and a worse one is ignored."""
    twins = truth_of((FIRST, False), (FIRST, True))
    assert ap(twins, detect(FIRST, 0.9), detect(FIRST, 0.8, mask=ELSEWHERE)) == pytest.approx((1, 1, 1))
    assert ap(twins, detect(FIRST, 0.9, mask=ELSEWHERE), detect(FIRST, 0.8))[1] == pytest.approx(1)
    assert ap(twins, detect(FIRST, 0.9, mask=ELSEWHERE))[1] == pytest.approx(0)


def test_without_any_mask_there_are_no_scores_of_masks_and_the_reason_is_given() -> None:
    truth = truth_of((FIRST, False), (SECOND, False))
    results = [detect(FIRST, 0.8), detect(SECOND, 0.9)]
    boxes, masks, cityscapes = ap(truth, *results)
    assert boxes == pytest.approx(1) and masks is None and cityscapes is None
    assert set(score_results(truth, results)["segm"].values()) == {None}
    assert format_table(score_results(truth, results)).count("n/a") > 12
    assert describe_boxes_only(truth["annotations"]) == "masks: n/a, because none of the 2 objects has a mask"
    assert describe_boxes_only(ONE_OF_EACH["annotations"]).startswith("1 of 2 objects have no mask: ")
    assert describe_boxes_only(truth_of((FIRST, True))["annotations"]) == describe_boxes_only([]) == ""


def test_a_crowd_without_mask_covers_its_box() -> None:
    crowd = {"id": 9, "image_id": 1, "category_id": 1, "bbox": list(SECOND), "area": 1500, "iscrowd": 1}
    truth = ONE_OF_EACH | {"annotations": [*truth_of((FIRST, True))["annotations"], crowd]}
    assert ap(truth, detect((65, 15, 10, 10), 0.9), detect(FIRST, 0.8)) == pytest.approx((1, 1, 1))
    assert describe_boxes_only(truth["annotations"]) == ""


def test_keypoints_of_objects_without_mask_count() -> None:
    points = [30.0, 30.0, 2.0, 20.0, 20.0, 2.0]
    truth = truth_of((FIRST, True), (SECOND, False), keypoints=points)
    truth["categories"] = [{"id": 1, "name": "person", "keypoints": ["nose", "ear"]}]
    results = [detect(FIRST, 0.9) | {"keypoints": points}]
    scores = score_results(truth, results, iou_types=("bbox", "segm", "keypoints"))
    assert scores["keypoints"]["AP"] == pytest.approx(51 / 101) and scores["segm"]["AP"] == pytest.approx(1)


class Reference(COCOeval):
    """pycocotools, with overlaps of masks from loops over pixels and the rule of `boxes_only`."""

    def computeIoU(self, image_id: int, category_id: int) -> Any:
        objects, found = self._gts[image_id, category_id], self._dts[image_id, category_id]
        order = np.argsort([-row["score"] for row in found], kind="mergesort")[: self.params.maxDets[-1]]
        overlaps = [[self.overlap(found[index], item) for item in objects] for index in order]
        return np.array(overlaps) if objects and found else []

    def overlap(self, result: dict[str, Any], item: dict[str, Any]) -> float:
        if item["boxes_only"]:
            (ax, ay, aw, ah), (bx, by, bw, bh) = result["box"], item["bbox"]
            inside = max(min(ax + aw, bx + bw) - max(ax, bx), 0) * max(min(ay + ah, by + bh) - max(ay, by), 0)
            return float(inside / max(aw * ah + bw * bh - inside, 1e-9) >= 0.5)
        mine, theirs = (coco_mask.decode(row["segmentation"]) > 0 for row in (result, item))
        union = mine.sum() if item["iscrowd"] else (mine | theirs).sum()
        return float((mine & theirs).sum() / max(union, 1))


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_pycocotools(seed: int) -> None:
    ground_truth, results = make_problem(seed, num_images=5)
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    expected = copy.deepcopy(ground_truth)
    for index, (given, row) in enumerate(zip(ground_truth["annotations"], expected["annotations"], strict=True)):
        row |= {"id": index + 1, "boxes_only": index % 2 == 0 and not row["iscrowd"]}
        if row["boxes_only"]:
            del given["segmentation"]
            row["iscrowd"] = 1
        elif isinstance(row["segmentation"], list):
            row["segmentation"] = coco_mask.frPyObjects(row["segmentation"], *sizes[row["image_id"]])[0]
        elif isinstance(row["segmentation"]["counts"], list):
            row["segmentation"] = coco_mask.frPyObjects(row["segmentation"], *sizes[row["image_id"]])
    rows = [{key: row[key] for key in row if key != "bbox"} | {"box": row["bbox"]} for row in results]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = expected
        coco.createIndex()
        evaluator = Reference(coco, coco.loadRes(rows), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    scores = score_results(ground_truth, results)["segm"]
    ours = [-1.0 if value is None else value for value in scores.values()]
    np.testing.assert_allclose(ours, evaluator.stats, atol=1e-6)
    assert 0.05 < ours[0] < 0.95


def test_evaluation_says_how_many_objects_have_no_mask() -> None:
    class BoxesOnly(Images):
        def __init__(self, is_kept: Any) -> None:
            super().__init__(3)
            self.is_kept = is_kept

        def coco_dict(self) -> dict[str, Any]:
            truth = super().coco_dict()
            for row in truth["annotations"]:
                if not self.is_kept(row):
                    del row["segmentation"]
            return truth

    some = evaluate(BoxesOnly(lambda row: row["category_id"] == 3), RectangleFinder(), test_config=TEST)
    assert some.table.splitlines()[-1].startswith("3 of 6 objects have no mask")
    assert some.metrics["segm"]["AP"] > 0.8 and some.metrics["categories"][1]["segm"] is None
    none = evaluate(BoxesOnly(lambda row: False), RectangleFinder(), test_config=TEST, cityscapes=True)
    assert "\nmasks: n/a, because none of the 6 objects has a mask\n" in none.table
    assert none.metrics["segm"]["AP"] is None and none.metrics["bbox"]["AP"] > 0.8
    whole = evaluate(Images(3), RectangleFinder(), test_config=TEST)
    assert "no mask" not in whole.table and whole.metrics["bbox"] == none.metrics["bbox"]
