"""Annotations: run lengths equal pycocotools' on what is valid, and every malformed annotation gets its reason."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_jax.data.annotations import clip_bbox, decode_counts, find_fault

IMAGE_HW = (24, 32)
INF, NAN = float("inf"), float("nan")


def test_decode_counts_by_hand() -> None:
    # A 2 x 3 image whose middle column is set: two zeros, two ones, two zeros.
    code = coco_mask.encode(np.asfortranarray([[0, 1, 0], [0, 1, 0]], np.uint8))
    np.testing.assert_array_equal(decode_counts(code["counts"].decode()), [2, 2, 2])
    np.testing.assert_array_equal(decode_counts([2, 2, 2]), [2, 2, 2])


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("image_hw", [(1, 1), (37, 53), (700, 900)])
def test_decode_counts_equals_pycocotools(image_hw: tuple[int, int], density: float) -> None:
    coarse = np.random.default_rng(3).random((image_hw[0] // 9 + 1, image_hw[1] // 7 + 1)) < density
    mask = np.kron(coarse, np.ones((9, 7), np.uint8))[: image_hw[0], : image_hw[1]]
    counts = decode_counts(coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode())
    assert counts is not None
    decoded = np.repeat(np.arange(len(counts)) % 2, counts).reshape(image_hw, order="F")
    np.testing.assert_array_equal(decoded, mask)


@pytest.mark.parametrize(
    "counts", [None, 7, "", "é", " 1", "p1", "oooooooo0", "o", [1, -1], [1.0], [True], [2**31], "@0"]
)
def test_malformed_counts_are_refused(counts: object) -> None:
    assert decode_counts(counts) is None


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"bbox": [0, 0, 0, 5]}, "bbox has no extent"),
    ({"bbox": [0, 0, 5, -1]}, "bbox has no extent"),
    ({"bbox": [31.9999, 0, 5, 5]}, "bbox has no extent"),
    ({"bbox": [1, 2, 3]}, "bbox is not four finite numbers"),
    ({"bbox": None}, "bbox is not four finite numbers"),
    ({"bbox": "1234"}, "bbox is not four finite numbers"),
    ({"bbox": [0, 0, NAN, 5]}, "bbox is not four finite numbers"),
    ({"bbox": [0, 0, 10**400, 5]}, "bbox is not four finite numbers"),
    ({"bbox": [0, 0, True, 5]}, "bbox is not four finite numbers"),
    ({"bbox": [32, 0, 5, 5]}, "bbox is outside"),
    ({"bbox": [0, -9, 5, 9]}, "bbox is outside"),
    ({"segmentation": "text"}, "neither polygons nor RLE"),
    ({"segmentation": [1, 2, 3, 4, 5, 6]}, "neither polygons nor RLE"),
    ({"segmentation": [[1, 2, 3, 4]]}, "fewer than 3 points"),
    ({"segmentation": [[1, 2, 3, 4, 5, 6], []]}, "fewer than 3 points"),
    ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "odd number"),
    ({"segmentation": [[1, 2, 3, 4, 5, NAN]]}, "not finite or far outside"),
    ({"segmentation": [[1, 2, 3, 4, 5, -INF]]}, "not finite or far outside"),
    ({"segmentation": [[1, 2, 3, 4, 5, 320.5]]}, "not finite or far outside"),
    ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "not finite or far outside"),
    ({"segmentation": {"size": [32, 24], "counts": [768]}}, "RLE size"),
    ({"segmentation": {"size": [24.0, 32.0], "counts": [700, 68]}}, "RLE size"),
    ({"segmentation": {"counts": [768]}}, "RLE size"),
    ({"segmentation": {"size": [24, 32], "counts": [700, 67]}}, "counts do not sum"),
    ({"segmentation": {"size": [24, 32], "counts": [700, 69]}}, "counts do not sum"),
    ({"segmentation": {"size": [24, 32], "counts": "0"}}, "counts do not sum"),
    ({"segmentation": {"size": [24, 32]}}, "counts do not sum"),
    ({"segmentation": {"size": [24, 32], "counts": [768, 0]}}, "mask is empty"),
    ({"iscrowd": 2}, "iscrowd"),
    ({"iscrowd": None}, "iscrowd"),
    ({"area": NAN}, "area"),
    ({"area": -1}, "area"),
    ({"keypoints": [1, 2]}, "three finite numbers"),
    ({"keypoints": [1, NAN, 2]}, "three finite numbers"),
    ({"keypoints": "text"}, "three finite numbers"),
    ({"keypoints": [1, 1, 2, 1, 1, 2]}, "number of keypoints"),
]


@pytest.mark.parametrize(("changes", "reason"), FAULTS, ids=lambda value: str(value)[:50])
def test_faults_are_named(one_object: Callable[..., dict[str, Any]], changes: dict[str, Any], reason: str) -> None:
    assert reason in (find_fault(one_object(**changes), IMAGE_HW, num_keypoints=1) or "")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bbox": [-5, -5, 6, 6]},
        {"bbox": [31.5, 23.5, 100, 100]},
        {"segmentation": [[-300.0, 2, 3, 4, 5, 320]]},
        {"segmentation": {"size": [24, 32], "counts": [700, 68]}},
        {"segmentation": None, "iscrowd": 1},
        {"area": 0},
        {"keypoints": [1, 1, 2]},
        {"keypoints": None},
    ],
    ids=str,
)
def test_usable_annotations_pass(one_object: Callable[..., dict[str, Any]], changes: dict[str, Any]) -> None:
    assert find_fault(one_object(**changes), IMAGE_HW, num_keypoints=1) is None


def test_clip_bbox() -> None:
    assert clip_bbox([-2.0, 3.5, 10.0, 100.0], IMAGE_HW) == (0.0, 3.5, 8.0, 24.0)
