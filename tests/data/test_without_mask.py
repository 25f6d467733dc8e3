"""Objects without a mask: prepared, read, augmented and checked with their boxes and keypoints alone."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.cli.check_data import measure_mask_targets, score_ground_truth
from mrcnn_jax.config import DataConfig
from mrcnn_jax.data.copy_paste import paste_objects
from mrcnn_jax.data.crop import CropWindow, crop_objects
from mrcnn_jax.data.dataset import ObjectRecord, Record, open_dataset
from mrcnn_jax.data.pipeline import training_batches
from mrcnn_jax.data.samples import make_invalid_sample, make_sample
from mrcnn_jax.visualization.comparisons import draw_comparison
from mrcnn_jax.visualization.overlays import draw_detections

CANVAS = (64, 64)
CONFIG = DataConfig(canvases=(CANVAS,), short_sides=(48,), max_side=64, max_objects=4, mask_size=28)
POINTS = (6.0, 8.0, 2.0)


@pytest.fixture
def half_boxes(empty_coco: Any) -> Any:
    """Two images with a square each, and next to it an object without a mask; a crowd without one in the second."""
    empty_coco.content["categories"][1]["keypoints"] = ["nose"]
    for image_id in (1, 2):
        empty_coco.add_image(image_id, (24, 32))
        empty_coco.add_object(10 * image_id, image_id)
        empty_coco.add_object(
            10 * image_id + 1, image_id, bbox=[18, 2, 10, 20], segmentation=None, area=None, keypoints=[20, 9, 2]
        )
    empty_coco.add_object(22, 2, bbox=[0, 20, 8, 4], segmentation=None, area=None, iscrowd=1)
    return empty_coco


def test_they_are_kept_with_their_box(half_boxes: Any) -> None:
    dataset = half_boxes.prepare(max_skip_fraction=0.0)
    assert (dataset.num_with_mask, dataset.num_without_mask, dataset.has_no_masks) == (2, 2, False)
    square, boxed = dataset[0].objects
    assert square.segmentation is not None and boxed.segmentation is None
    assert boxed.bbox == (18, 2, 10, 20) and boxed.area == 200 and boxed.keypoints == (20, 9, 2)
    assert dataset[1].objects[2].segmentation is not None
    rows = dataset.coco_dict()["annotations"]
    assert ["segmentation" in row for row in rows] == [True, False, True, False, True]
    assert rows[1]["keypoints"] == [20, 9, 2] and rows[1]["num_keypoints"] == 1


@pytest.mark.parametrize("nothing", [None, [], {}, [[]], ""], ids=str)
def test_every_form_of_nothing_is_no_mask(empty_coco: Any, nothing: Any) -> None:
    empty_coco.add_image(1, (24, 32))
    empty_coco.add_object(1, 1)
    empty_coco.content["annotations"][0]["segmentation"] = nothing
    dataset = empty_coco.prepare(max_skip_fraction=0.0)
    assert dataset.has_no_masks and dataset[0].objects[0].segmentation is None
    assert "segmentation" not in dataset.coco_dict()["annotations"][0]


@pytest.mark.parametrize(("given", "area"), [(None, 16), (0, 16), (7.5, 7.5)])
def test_area_is_that_of_the_visible_box_unless_the_file_has_one(empty_coco: Any, given: Any, area: float) -> None:
    empty_coco.add_image(1, (24, 32))
    empty_coco.add_object(1, 1, segmentation=None, bbox=[28, 20, 300, 200], area=given)
    assert empty_coco.prepare()[0].objects[0].area == area


def test_a_folder_of_an_earlier_version_has_masks_only(small_coco: Any) -> None:
    path = small_coco.prepare().path / "metadata.json"
    content = json.loads(path.read_text())
    assert (content.pop("num_with_mask"), content.pop("num_without_mask")) == (3, 0)
    path.write_text(json.dumps(content))
    dataset = open_dataset(str(path.parent))
    assert not dataset.has_no_masks and dataset.num_without_mask == 0 and len(dataset[0].objects) == 2


def make_object(object_id: int, bbox: tuple[float, ...], *, has_mask: bool = False, points: Any = ()) -> ObjectRecord:
    x, y, width, height = bbox
    polygons = [[x, y, x + width, y, x + width, y + height, x, y + height]] if has_mask else None
    return ObjectRecord(object_id, object_id, (x, y, width, height), width * height, False, polygons, points)


def make_record(*objects: ObjectRecord, value: int = 50, image_hw: tuple[int, int] = (24, 32)) -> Record:
    return Record(1, "a.png", np.full((*image_hw, 3), value, np.uint8), objects)


def test_a_sample_marks_them_in_static_slots() -> None:
    square = make_object(1, (4, 6, 10, 10), has_mask=True)
    record = make_record(make_object(3, (18, 2, 10, 20), points=POINTS), square)
    flipped = replace(CONFIG, flip_probability=1.0)
    for config, box in ((replace(CONFIG, flip_probability=0.0), [36, 4, 56, 44]), (flipped, [8, 4, 28, 44])):
        truth = make_sample(record, CANVAS, config, np.random.default_rng(0), (0,)).ground_truth
        np.testing.assert_array_equal(truth.boxes[0], box)
        assert truth.labels.tolist() == [3, 1, 0, 0] and truth.keypoints[0, 0, 2] == 2
        assert truth.has_mask.tolist() == [False, True, False, False] and truth.has_mask.dtype == np.bool_
        assert truth.masks[0].max() == 0 and truth.masks[1].min() == 1
    assert not make_invalid_sample(CANVAS, CONFIG).ground_truth.has_mask.any()


def test_batches_have_one_structure_with_and_without_masks(half_boxes: Any) -> None:
    dataset = half_boxes.prepare()
    config = replace(CONFIG, num_threads=1)
    (batch,) = training_batches(dataset, config, batch_size=2, seed=0, start_step=0, num_steps=1)
    truth = batch.ground_truth
    assert truth.has_mask.shape == truth.valid.shape == (2, 4)
    assert truth.valid.sum(1).tolist() == [2, 2] and truth.has_mask.sum(1).tolist() == [1, 1]
    np.testing.assert_array_equal(truth.masks.any((2, 3)), truth.has_mask)


def test_crops_clip_their_boxes() -> None:
    """The window is columns 10 to 20 and rows 0 to 16 of the image, at twice the size."""
    window = CropWindow(0, 20, (32, 20))
    items = [
        make_object(1, (4, 6, 10, 10), points=(5.0, 7.0, 2.0, 12.0, 7.0, 2.0)),
        make_object(2, (12, 1, 4, 4)),
        make_object(3, (0, 0, 10.4, 9)),  # 0.8 pixels of the network's input are left
        make_object(4, (0, 0, 10.5, 9)),
    ]
    cropped = crop_objects(items, window, (24, 32), (48, 64), 28)
    assert [item.id for item in cropped] == [1, 2, 4] and all(item.segmentation is None for item in cropped)
    assert cropped[0].bbox == (10, 6, 4, 10) and cropped[0].area == 40
    assert cropped[0].keypoints == (0, 0, 0, 12, 7, 2) and cropped[1] == items[1]
    # A full mask in the same box gives the same box and area.
    masked = crop_objects([make_object(1, (4, 6, 10, 10), has_mask=True)], window, (24, 32), (48, 64), 28)
    assert (masked[0].bbox, masked[0].area) == (cropped[0].bbox, cropped[0].area)


def paste(below: ObjectRecord, *above: ObjectRecord) -> tuple[ObjectRecord, ...]:
    """The objects after all of `above` have been pasted over `below`, at the same place."""
    record, source = make_record(below), make_record(*above, value=200)

    class All(np.random.Generator):
        def random(self, *args: Any) -> Any:
            return np.zeros(*args)

    return paste_objects(record, source, All(np.random.PCG64(0))).objects


def test_a_strip_of_less_than_a_pixel_is_dropped() -> None:
    item = make_object(1, (4.9, 2, 9.1, 20))  # touches 10 columns
    kept = [paste(item, make_object(9, (x, 0, 32 - x, 24), has_mask=True))[0] for x in (6, 5)]
    assert kept[0].bbox == pytest.approx((4.9, 2, 1.1, 20)) and kept[1].id == 9


def test_they_are_never_pasted() -> None:
    below = make_object(1, (4, 6, 10, 10), has_mask=True)
    assert paste(below, make_object(2, (0, 0, 32, 24))) == (below,)
    kept = paste(below, make_object(2, (0, 0, 8, 24)), make_object(3, (20, 0, 9, 9), has_mask=True))
    assert kept[0] is below and [item.id for item in kept] == [1, 3]


@pytest.mark.parametrize(
    ("above", "bbox"),
    [
        ((20, 0, 12, 24), (4.5, 6.25, 10, 10)),  # beside it
        ((0, 0, 7, 24), (7, 6.25, 7.5, 10)),  # over its left end
        ((0, 12, 32, 12), (4.5, 6.25, 10, 5.75)),  # over its lower end
        ((7, 8, 3, 3), (4.5, 6.25, 10, 10)),  # in its middle: its ends remain
        ((7, 0, 3, 24), (4.5, 6.25, 10, 10)),
        ((6, 0, 26, 24), (4.5, 6.25, 1.5, 10)),  # 2 of the 11 columns of pixels that it touches are left
        ((5, 0, 27, 24), None),  # 1 column: 11 pixels of 121
        ((0, 0, 32, 24), None),
    ],
)
def test_below_pasted_objects_their_box_shrinks_or_they_go(above: Any, bbox: Any) -> None:
    item = make_object(1, (4.5, 6.25, 10, 10), points=(12.0, 8.0, 2.0, 0.0, 0.0, 0.0))
    first, *others = paste(item, make_object(9, above, has_mask=True))
    if bbox is None:
        assert first.id == 9 and not others
        return
    assert first.bbox == pytest.approx(bbox) and first.segmentation is None
    if bbox == item.bbox:
        assert first.area == item.area
    else:
        assert first.area == pytest.approx(bbox[2] * bbox[3])
    x, y, width, height = above
    assert first.keypoints[2] == (1 if x <= 12 < x + width and y <= 8 < y + height else 2)


def test_the_annotations_score_one_as_detections(half_boxes: Any) -> None:
    dataset = half_boxes.prepare()
    assert score_ground_truth(dataset, 100) == pytest.approx({"bbox": 1, "segm": 1, "keypoints": 1})
    assert measure_mask_targets(dataset, 10, CONFIG)["objects"] == 2


def test_a_set_of_boxes_is_checked_without_masks(half_boxes: Any) -> None:
    for row in half_boxes.content["annotations"]:
        row.pop("segmentation", None)
    dataset = half_boxes.prepare()
    assert dataset.has_no_masks
    assert score_ground_truth(dataset, 100) == {"bbox": pytest.approx(1), "segm": None, "keypoints": pytest.approx(1)}
    assert measure_mask_targets(dataset, 10, CONFIG) == {"objects": 0, "mean": None, "tenth_percentile": None}


def test_their_box_is_drawn(half_boxes: Any) -> None:
    dataset = half_boxes.prepare()
    image = np.zeros((24, 32, 3), np.uint8)
    (boxed,) = [row for row in dataset.coco_dict()["annotations"] if row["id"] == 11]
    picture = draw_comparison(image, [boxed], [], dataset.categories)
    x, y, width, height = boxed["bbox"]
    box, label = np.array([[x, y, x + width, y + height]]), np.array([boxed["category_id"]])
    expected = draw_detections(
        image, box, None, label, None, dataset.categories, [np.reshape(boxed["keypoints"], (1, 3))]
    )
    np.testing.assert_array_equal(picture[-expected.shape[0] :, : expected.shape[1]], expected)
    assert expected.any()
