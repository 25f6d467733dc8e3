"""Masks as crops: the same pixels as whole masks, through every change of the detections that hold them."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_jax.config import TestConfig
from mrcnn_jax.inference.mask_crops import MaskCrop, box_crop, intersect, mask_along, part_of, resize_crop, unite
from mrcnn_jax.inference.paste_masks import encode_window
from mrcnn_jax.inference.postprocessing import ImageDetections, concatenate
from tests.inference.ideal_detector import CATEGORIES

IMAGE_HW = (23, 31)
WINDOWS = [(0, 23, 0, 31), (0, 23, 4, 9), (5, 11, 0, 31), (3, 4, 30, 31), (22, 23, 30, 31), (0, 0, 0, 0)]


def random_crop(window: tuple[int, int, int, int], share: float = 0.6) -> MaskCrop:
    y0, y1, x0, x1 = window
    return MaskCrop(np.random.default_rng(y0 + x1).random((y1 - y0, x1 - x0)) < share, window)


def whole(crop: MaskCrop, image_hw: tuple[int, int] = IMAGE_HW) -> np.ndarray:
    mask = np.zeros(image_hw, bool)
    y0, y1, x0, x1 = crop.window
    mask[y0:y1, x0:x1] = crop.pixels
    return mask


def detections(crops: list[MaskCrop | None]) -> ImageDetections:
    count = len(crops)
    return ImageDetections(
        boxes=np.array([[2.0, 3, 20, 19]] * count, np.float32).reshape(-1, 4),
        scores=np.linspace(1, 0.5, count, dtype=np.float32),
        labels=np.full(count, 5),
        mask_probabilities=np.ones((count, 4, 4), np.float32),
        keypoints=np.ones((count, 2, 3), np.float32),
        image_hw=IMAGE_HW,
        test=TestConfig(),
        categories=CATEGORIES,
        crops=tuple(crops) if any(crops) else None,
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("window", WINDOWS)
def test_codes_of_windows_are_those_of_the_whole_mask(window: tuple[int, int, int, int], share: float) -> None:
    crop = random_crop(window, share)
    expected = coco_mask.encode(np.asfortranarray(whole(crop).astype(np.uint8)))
    code = encode_window(*crop, IMAGE_HW)
    assert code == {"size": [23, 31], "counts": expected["counts"].decode()}


@pytest.mark.parametrize("new_hw", [(23, 31), (46, 93), (11, 10), (5, 40), (1, 1)])
@pytest.mark.parametrize("window", WINDOWS)
def test_resized_crops_take_the_nearest_pixels(window: tuple[int, int, int, int], new_hw: tuple[int, int]) -> None:
    crop = random_crop(window)
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(new_hw, IMAGE_HW, strict=True)
    )
    assert (whole(resize_crop(crop, IMAGE_HW, new_hw), new_hw) == whole(crop)[np.ix_(rows, columns)]).all()


def test_windows_of_two_masks() -> None:
    one, other = random_crop((2, 9, 3, 20)), random_crop((5, 15, 10, 31))
    place = intersect(one.window, other.window)
    assert place == (5, 9, 10, 20) and (part_of(one, place) == whole(one)[5:9, 10:20]).all()
    assert part_of(one, intersect(one.window, (9, 12, 0, 31))).size == 0
    assert (whole(unite([one, other])) == whole(one) | whole(other)).all() and unite([one, other]).window == (
        2,
        15,
        3,
        31,
    )
    assert one.area == whole(one).sum()
    strip = (7, 12, 0, 31)
    assert (mask_along(one, strip, 0) == whole(one)[7:12].any(axis=0)).all()
    strip = (0, 23, 18, 22)
    assert (mask_along(other, strip, 1) == whole(other)[:, 18:22].any(axis=1)).all()
    assert box_crop(np.array([-1.0, 2.4, 3.6, 5.5]), IMAGE_HW).window == (2, 6, 0, 4)


def test_detections_keep_given_masks_beside_pasted_ones() -> None:
    given = random_crop((4, 12, 6, 30))
    found = detections([None, given])
    pasted = whole(found.crop(0))
    assert pasted.sum() == 18 * 16 - 4 and found.crop(1) is given  # probabilities fade at the corners
    assert (found.masks == [pasted, whole(given)]).all()
    codes = [row["segmentation"] for row in found.coco_results(1)]
    assert (coco_mask.decode(codes[1]) == whole(given)).all() and (coco_mask.decode(codes[0]) == pasted).all()
    for keep in (np.array([1, 0]), np.array([False, True]), np.array([], int)):
        assert (found.select(keep).masks == found.masks[keep]).all()
    moved = found.moved(7, 9, (40, 50))
    assert (moved.masks[:, 7:30, 9:40] == found.masks).all() and moved.masks.sum() == found.masks.sum()
    np.testing.assert_allclose(moved.boxes[0], [11, 10, 29, 26])
    np.testing.assert_allclose(moved.keypoints[0], [[10, 8, 1]] * 2)
    assert (found.resized((46, 62)).masks[1] == whole(given).repeat(2, 0).repeat(2, 1)).all()
    both = concatenate([detections([None]), found, detections([])])
    assert (both.masks == [pasted, pasted, whole(given)]).all() and len(both.crops or ()) == 3
    assert concatenate([detections([None]), detections([None])]).crops is None
