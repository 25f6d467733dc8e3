"""Large-scale jitter: what a cropped sample says about its objects, against masks of the whole image."""

from typing import Any

import cv2
import numpy as np
import pytest

from mrcnn_jax.config import DataConfig
from mrcnn_jax.data.bitmaps import encode_mask
from mrcnn_jax.data.crop import CropWindow, crop_objects, draw_window
from mrcnn_jax.data.dataset import ObjectRecord, Record
from mrcnn_jax.data.samples import Sample, make_sample

CANVAS = (64, 96)
OLD_HW = (20, 30)
CONFIG = DataConfig(canvases=(CANVAS,), short_sides=(60,), max_side=90, max_objects=9, mask_size=28)
MIRRORED = (1, 0)


def below_diagonal(box: tuple[float, ...], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points of a box (x, y, width, height) lie in its lower left half."""
    x0, y0, width, height = box
    return (y - y0) / height >= (x - x0) / width


def in_box(box: tuple[float, ...], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie in a box (x, y, width, height)."""
    x0, y0, width, height = box
    return (x >= x0) & (x < x0 + width) & (y >= y0) & (y < y0 + height)


def make_object(object_id: int, box: tuple[float, ...], as_rle: bool = False, points: Any = ()) -> ObjectRecord:
    x, y, width, height = box
    segmentation: Any = [[x, y, x + width, y + height, x, y + height]]
    if as_rle:
        rows, columns = np.mgrid[: OLD_HW[0], : OLD_HW[1]] + 0.5
        segmentation = encode_mask(in_box(box, columns, rows) & below_diagonal(box, columns, rows))
    return ObjectRecord(object_id, object_id, box, width * height / 2, False, segmentation, points)


def make_record(as_rle: bool = False) -> Record:
    """Noise, in which a crop's place can be found, under triangles of which keypoints name two pixels."""
    boxes = [(2.0, 1.0, 20.0, 16.0), (12.0, 6.0, 8.0, 9.0), (0.0, 0.0, 30.0, 20.0), (24.0, 13.0, 6.0, 7.0)]
    points = [
        (3.0, 5.0, 2.0, 21.0, 16.0, 1.0),
        (),
        (0.0, 0.0, 0.0, 15.0, 10.0, 2.0),
        (24.0, 19.0, 2.0, 29.0, 19.0, 2.0),
    ]
    objects = [make_object(i + 1, box, as_rle, points[i]) for i, box in enumerate(boxes)]
    return Record(1, "a.png", np.random.default_rng(0).integers(0, 256, (*OLD_HW, 3), np.uint8), tuple(objects))


def sample_of(record: Record, seed: int, flip: bool = False, **changes: Any) -> Sample:
    config = DataConfig(**(vars(CONFIG) | {"flip_probability": float(flip)} | changes))
    return make_sample(record, CANVAS, config, np.random.default_rng(seed), MIRRORED)


def find_place(whole: np.ndarray, part: np.ndarray) -> tuple[int, int]:
    """The only top and left at which the whole image shows the part."""
    (height, width), room = part.shape[:2], np.subtract(whole.shape[:2], part.shape[:2]) + 1
    found = [
        (top, left)
        for top, left in np.ndindex(*room)
        if (whole[top, left] == part[0, 0]).all() and (whole[top : top + height, left : left + width] == part).all()
    ]
    assert len(found) == 1
    return found[0]


def expected_bitmap(
    item: ObjectRecord, box: np.ndarray, place: tuple[int, int], as_rle: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A clipped triangle at the centres of the bitmap's cells, and where rounding cannot have changed it.

    Outlines are rounded to cells, or to original pixels: those of an RLE, and where so little of a polygon is left that
    it is rasterised in the image. There the box's corners are rounded, too.
    """
    cells, sides = (np.arange(28) + 0.5) / 28, box[2:] - box[:2]
    x, y = np.meshgrid((box[0] + cells * sides[0] + place[1]) / 6, (box[1] + cells * sides[1] + place[0]) / 6)
    is_raster = as_rle or (sides < np.array(item.bbox[2:]) * 6 / 3).any()
    reach = (1, 1) if is_raster else 1.5 * sides / 28 / 6
    around = []
    for i, j in np.ndindex(3, 3):
        u, v = x + (i - 1) * reach[0], y + (j - 1) * reach[1]
        around.append(below_diagonal(item.bbox, u, v) & (in_box(item.bbox, u, v) | (not is_raster)))
    return around[4], np.all(around, axis=0) | ~np.any(around, axis=0)


@pytest.mark.parametrize("as_rle", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_a_cropped_sample_agrees_with_the_whole_image(as_rle: bool, flip: bool) -> None:
    record = make_record(as_rle)
    whole = cv2.resize(record.image, (180, 120), interpolation=cv2.INTER_LINEAR)  # 60 x 90, doubled: 6 times as large
    num_seen, num_hidden, certain = 0, 0, []
    for seed in range(6):
        sample = sample_of(record, seed, flip, scale_jitter=(2.0, 2.0))
        assert sample.image_hw == CANVAS
        straight = sample.image[:, ::-1] if flip else sample.image
        top, left = find_place(whole, straight)
        truth, slot = sample.ground_truth, 0
        for item in record.objects:
            x0, y0, width, height = (6 * value for value in item.bbox)
            box = np.array([x0 - left, y0 - top, x0 + width - left, y0 + height - top])
            box = np.clip(box, 0, [96, 64, 96, 64])
            mask, is_certain = expected_bitmap(item, box, (top, left), as_rle)
            is_visible = min(box[2:] - box[:2]) >= 1 and (mask | ~is_certain).any()
            if not is_visible:
                assert item.label not in truth.labels
                num_hidden += 1
                continue
            num_seen += 1
            assert truth.labels[slot] == item.label and truth.valid[slot]
            expected = box[[2, 1, 0, 3]] * (-1, 1, -1, 1) + (96, 0, 96, 0) if flip else box
            np.testing.assert_allclose(truth.boxes[slot], expected, atol=1e-4)
            bitmap = truth.masks[slot][:, ::-1] if flip else truth.masks[slot]
            np.testing.assert_array_equal(bitmap[is_certain], mask[is_certain])
            certain.append(is_certain.mean())
            check_keypoints(truth.keypoints[slot], item, (top, left), flip)
            slot += 1
        assert not truth.valid[slot:].any() and sample.num_dropped == 0
    assert num_seen > 8 and num_hidden > 1 and np.mean(certain) > 0.4


def check_keypoints(found: np.ndarray, item: ObjectRecord, place: tuple[int, int], flip: bool) -> None:
    expected = np.zeros((2, 3))
    for index in range(len(item.keypoints) // 3):
        x, y, visibility = item.keypoints[3 * index : 3 * index + 3]
        x, y = 6 * (x + 0.5) - place[1], 6 * (y + 0.5) - place[0]
        if visibility > 0 and 0 <= x < 96 and 0 <= y < 64:
            expected[1 - index if flip else index] = (96 - x if flip else x, y, visibility)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_smaller_image_is_whole() -> None:
    sample = sample_of(make_record(), 0, scale_jitter=(0.5, 0.5))
    assert sample.image_hw == (30, 45) and sample.image[30:].max() == 0 and sample.image[:, 45:].max() == 0
    plain = sample_of(make_record(), 0)
    np.testing.assert_allclose(sample.ground_truth.boxes, plain.ground_truth.boxes / 2, rtol=1e-6)
    np.testing.assert_array_equal(sample.ground_truth.masks, plain.ground_truth.masks)
    # At a thirtieth of the size the smallest object has sides of less than a pixel.
    tiny = sample_of(make_record(), 0, scale_jitter=(1 / 30, 1 / 30))
    assert tiny.image_hw == (2, 3) and tiny.ground_truth.labels.tolist()[:3] == [1, 3, 0]


def test_hidden_objects_are_dropped_and_others_untouched() -> None:
    item = make_object(1, (2.0, 1.0, 20.0, 16.0), points=(3.0, 5.0, 2.0, 21.0, 16.0, 1.0))
    crop = lambda *window: crop_objects([item], CropWindow(*window), OLD_HW, OLD_HW, 28)  # noqa: E731
    assert crop(0, 0, OLD_HW) == [item]
    assert crop(1, 2, (16, 20)) == [item]  # exactly its box
    assert crop(0, 12, (5, 10)) == []  # the upper right corner of its box, where its mask is not
    assert crop(0, 22, (20, 8)) == crop(17, 0, (3, 30)) == []
    (part,) = crop(1, 2, (16, 10))
    assert part.bbox == (2, 1, 10, 16) and part.keypoints == (3, 5, 2, 0, 0, 0)
    assert abs(part.area - 120) < 4  # 3/4 of the triangle
    # Sides count in pixels of the input: half a pixel at twice the size is 1, 1.33 pixels at 0.6 of it are 0.8.
    assert crop_objects([item], CropWindow(0, 0, (40, 5)), OLD_HW, (40, 60), 28)[0].bbox == (2, 1, 0.5, 16)
    assert crop_objects([item], CropWindow(33, 0, (7, 60)), OLD_HW, (40, 60), 28)[0].bbox == (2, 16.5, 20, 0.5)
    assert crop_objects([item], CropWindow(0, 0, (12, 2)), OLD_HW, (12, 18), 28) == []


def test_the_largest_visible_parts_are_kept() -> None:
    large = make_object(1, (0.0, 0.0, 30.0, 20.0))
    small = make_object(2, (0.0, 14.0, 6.0, 6.0))
    window = CropWindow(0, 26, (20, 4))
    (visible,) = crop_objects([large, small], window, OLD_HW, OLD_HW, 28)
    assert visible.label == 1 and visible.area < 10 < large.area


def test_windows_lie_inside_and_reach_all_places() -> None:
    rng = np.random.default_rng(0)
    windows = [draw_window((66, 90), CANVAS, rng) for _ in range(60)]
    assert {window.top for window in windows} == {0, 1, 2} and {window.left for window in windows} == {0}
    assert {window.hw for window in windows} == {(64, 90)}


def test_without_jitter_nothing_is_drawn_for_it() -> None:
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    make_sample(make_record(), CANVAS, CONFIG, rng)
    other.integers(1), other.random()
    assert rng.random() == other.random()


def test_sizes_follow_the_bounds_and_the_seed() -> None:
    record = make_record()
    samples = [sample_of(record, seed, scale_jitter=(0.5, 2.0)) for seed in range(40)]
    heights = {sample.image_hw[0] for sample in samples}
    assert min(heights) >= 30 and max(heights) == 64 and len(heights) > 10
    again = sample_of(record, 7, scale_jitter=(0.5, 2.0))
    np.testing.assert_array_equal(again.image, samples[7].image)
    for low, high in ((0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match=r"data\.scale_jitter"):
            DataConfig(scale_jitter=(low, high))
