"""Nothing malformed reaches the libraries' C code, and what is refused is named."""

import copy

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_jax.errors import DataError
from mrcnn_jax.evaluation.coco_checks import check_results, checked_ground_truth

IMAGES = [{"id": 5, "height": 20, "width": 30}]
CATEGORIES = [{"id": 2, "name": "disc"}]


def code_of(mask):
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


MASK = np.zeros((20, 30), bool)
MASK[3:9, 4:20] = True
RESULT = {"image_id": 5, "category_id": 2, "bbox": [4.0, 3.0, 16.0, 6.0], "score": 0.5, "segmentation": code_of(MASK)}
OBJECT = {"id": 0, "image_id": 5, "category_id": 2, "bbox": [4.0, 3.0, 16.0, 6.0], "area": 96.0, "iscrowd": 0}
POLYGON = [4.0, 3.0, 20.0, 3.0, 20.0, 9.0]


def ground_truth(**changes):
    annotations = [OBJECT | {"segmentation": [POLYGON]} | changes]
    return {"images": IMAGES, "annotations": annotations, "categories": CATEGORIES}


def test_sound_input_passes_and_objects_are_numbered_from_one():
    check_results(ground_truth(), [RESULT, RESULT | {"score": 1}])
    for segmentation in ([POLYGON], code_of(MASK), {"size": [20, 30], "counts": [0, 600]}):
        given = ground_truth(segmentation=segmentation)
        before = copy.deepcopy(given)
        assert [row["id"] for row in checked_ground_truth(given)["annotations"]] == [1]
        assert given == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 6}, "image_id 6"),
        ({"image_id": [5]}, "image_id"),
        ({"category_id": 3}, "category_id 3"),
        ({"score": float("nan")}, "score"),
        ({"score": "0.5"}, "score"),
        ({"bbox": [1, 2, 3]}, "bbox"),
        ({"bbox": [1, 2, float("inf"), 4]}, "bbox"),
        ({"bbox": [1, 2, -3, 4]}, "bbox"),
        ({"bbox": None}, "bbox"),
        ({"segmentation": [POLYGON]}, "run-length"),
        ({"segmentation": {"size": [20, 30], "counts": [600]}}, "run-length"),
        ({"segmentation": {"size": [30, 20], "counts": code_of(MASK)["counts"]}}, "size"),
        ({"segmentation": {"size": [20, 30], "counts": code_of(MASK)["counts"][:-3]}}, "sum to"),
        ({"segmentation": {"size": [20, 30], "counts": ""}}, "sum to"),
        ({"segmentation": {"size": [20, 30], "counts": "\x00\x7f"}}, "sum to"),
        ({"segmentation": {"size": [20, 30], "counts": "é"}}, "sum to"),
        ({"segmentation": {"size": [20, 30], "counts": "oooooooooooo0"}}, "sum to"),
        ({"segmentation": {"size": [20, 30], "counts": "O"}}, "sum to"),
    ],
)
def test_malformed_results_are_refused_by_number(changes, message):
    with pytest.raises(DataError, match="Result 1: .*" + message):
        check_results(ground_truth(), [RESULT, RESULT | changes])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmentation": [[4.0, 3.0, 20.0, 3.0]]}, "3 points"),
        ({"segmentation": [[*POLYGON[:-1], 1e9]]}, "far outside"),
        ({"segmentation": {"size": [20, 30], "counts": [599]}}, "sum to"),
        ({"area": float("inf")}, "area"),
        ({"area": None}, "no area"),
        ({"bbox": [0, 0, 1, None]}, "bbox"),
        ({"image_id": 6}, "image_id 6"),
        ({"category_id": True}, "category_id True"),
    ],
)
def test_malformed_ground_truth_is_refused_by_id(changes, message):
    with pytest.raises(DataError, match=r"object 0 \(id 0\).*" + message):
        checked_ground_truth(ground_truth(**changes))


def test_a_crowd_without_a_segmentation_is_its_box():
    (crowd,) = checked_ground_truth(ground_truth(segmentation=[], iscrowd=1))["annotations"]
    assert crowd["segmentation"] == [[4.0, 3.0, 20.0, 3.0, 20.0, 9.0, 4.0, 9.0]]
