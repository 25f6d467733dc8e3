"""The whole way from a data set to scores, with a stand-in for the network that finds coloured rectangles."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.data.images import ImageError
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.evaluation.category_matching import match_categories
from mrcnn_jax.evaluation.evaluate import evaluate
from mrcnn_jax.inference import prediction_program
from mrcnn_jax.inference.prediction_program import make_predict_fn
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.structures import Detections

CATEGORIES = (Category(3, "red"), Category(8, "green"))
TEST = TestConfig(short_side=64, max_side=96, canvases=((64, 96), (96, 64)), batch_size=1)
SLOTS, MASK_SIDE = 4, 28


class Images:
    """Images of several sizes with one red and one green rectangle each, behind the interface of Dataset."""

    name = "rectangles"
    categories = CATEGORIES

    def __init__(self, count=7, undecodable=()):
        rng = np.random.default_rng(0)
        self.sizes = np.array([(120, 160), (160, 120), (100, 100)] * count)[:count]
        self.image_ids = np.arange(count)[::-1] * 10 + 5
        self.boxes = []
        for height, width in self.sizes:
            left, top = rng.integers(5, width // 4), rng.integers(5, height // 4)
            red = (left, top, left + rng.integers(20, width // 4), top + rng.integers(20, height // 4))
            self.boxes.append(
                (red, (red[0] + width // 2, red[1] + height // 2, red[2] + width // 2, red[3] + height // 2))
            )
        self.undecodable = undecodable

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        try:
            if index in self.undecodable:
                raise ImageError("image is truncated")
        except ImageError as error:
            raise DataError(f"image {index}: {error.reason}") from None
        image = np.zeros((*self.sizes[index], 3), np.uint8)
        for channel, (x0, y0, x1, y1) in enumerate(self.boxes[index]):
            image[y0:y1, x0:x1, channel] = 255
        return SimpleNamespace(image=image)

    def coco_dict(self):
        images, annotations = [], []
        for image_id, (height, width), boxes in zip(
            self.image_ids.tolist(), self.sizes.tolist(), self.boxes, strict=True
        ):
            images.append({"id": image_id, "file_name": "", "height": height, "width": width})
            for category, box in zip(CATEGORIES, boxes, strict=True):
                x0, y0, x1, y1 = (float(side) for side in box)
                annotations.append(
                    {"id": len(annotations), "image_id": image_id, "category_id": category.id, "iscrowd": 0}
                    | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
                    | {"segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}
                )
        return {"images": images, "annotations": annotations, "categories": [vars(c) for c in CATEGORIES]}


class RectangleFinder:
    """A network that sees red and green: boxes in pixels of its input; nothing for filler."""

    def __init__(self):
        self.shapes = set()
        self.num_filler = 0

    def __call__(self, images, image_hw):
        assert images.dtype == np.uint8 and image_hw.dtype == np.int32
        self.shapes.add(images.shape)
        count = len(images)
        found = Detections(
            boxes=np.zeros((count, SLOTS, 4), np.float32),
            scores=np.zeros((count, SLOTS), np.float32),
            labels=np.zeros((count, SLOTS), np.int32),
            masks=np.zeros((count, SLOTS, MASK_SIDE, MASK_SIDE), np.float32),
            heat_maps=np.zeros((count, SLOTS, 0, 0, 0), np.float32),
            valid=np.zeros((count, SLOTS), bool),
        )
        for slot, (image, (height, width)) in enumerate(zip(images, image_hw, strict=True)):
            assert not image[height:].any() and not image[:, width:].any()
            self.num_filler += int(height == 0)
            for channel in range(2) if height else ():
                rows, columns = (np.flatnonzero(image[..., channel].max(axis) > 127) for axis in (1, 0))
                found.boxes[slot, channel] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
                found.scores[slot, channel] = 0.5 + 0.3 * channel
                found.labels[slot, channel] = channel + 1
                found.masks[slot, channel] = 1.0
                found.valid[slot, channel] = True
        return found


def test_found_rectangles_score_high_in_the_images_own_pixels():
    calls = []
    evaluation = evaluate(Images(), RectangleFinder(), test_config=TEST, progress=lambda *call: calls.append(call))
    for kind in ("bbox", "segm"):
        assert evaluation.metrics[kind]["AP50"] == evaluation.metrics[kind]["AP75"] == 1.0
        assert evaluation.metrics[kind]["AP"] > 0.85
    assert evaluation.metrics["num_images"] == 7 and evaluation.metrics["skipped"] == {}
    assert [row["name"] for row in evaluation.metrics["categories"]] == ["red", "green"]
    assert calls == [(done, 7) for done in range(1, 8)]
    assert "Average Precision" in evaluation.table
    assert [row["image_id"] for row in evaluation.results[::2]] == [65, 55, 45, 35, 25, 15, 5]


@pytest.mark.parametrize(("batch_size", "num_devices"), [(2, 1), (3, 2), (16, 1)])
def test_results_do_not_depend_on_the_batch_size(batch_size, num_devices):
    alone = evaluate(Images(), RectangleFinder(), test_config=TEST)
    finder = RectangleFinder()
    test = TestConfig(**{**vars(TEST), "batch_size": batch_size})
    together = evaluate(Images(), finder, test_config=test, num_devices=num_devices)
    assert together.results == alone.results and together.metrics == alone.metrics
    size = batch_size * num_devices
    assert finder.shapes == {(size, 64, 96, 3), (size, 96, 64, 3)}  # one shape per canvas: one compilation each
    assert finder.num_filler > 0


def test_undecodable_images_are_counted_and_not_scored():
    finder = RectangleFinder()
    evaluation = evaluate(Images(undecodable=(1, 3)), finder, test_config=TEST, max_skip_fraction=0.3)
    assert finder.num_filler == 0  # the network does not run for a batch without images
    assert evaluation.metrics["num_images"] == 5
    assert evaluation.metrics["skipped"] == {"image is truncated": 2}
    assert evaluation.metrics["segm"]["AR100"] > 0.85  # the objects in skipped images are not missed
    assert not {55, 35} & {row["image_id"] for row in evaluation.results}
    with pytest.raises(DataError, match=r"2 of 7 .*\(2 x image is truncated\), more than 20\.0%"):
        evaluate(Images(undecodable=(1, 3)), RectangleFinder(), test_config=TEST, max_skip_fraction=0.2)
    with pytest.raises(DataError, match=r"1 of 7 .*, more than 1\.0%"):
        evaluate(Images(undecodable=(1,)), RectangleFinder(), test_config=TEST)


def test_cityscapes_scores_are_added_for_the_evaluated_images():
    images = Images(undecodable=(1, 3))
    evaluation = evaluate(images, RectangleFinder(), test_config=TEST, max_skip_fraction=0.3, cityscapes=True)
    scores = evaluation.metrics["cityscapes"]
    assert scores["AP50"] == 1.0 and scores["AP"] > 0.8  # the objects in skipped images are not missed
    assert [row["name"] for row in scores["categories"]] == ["red", "green"]
    assert evaluation.table.endswith(f"masks (cityscapes)\n AP = {scores['AP']:.3f}\n AP50 = 1.000")
    plain = evaluate(images, RectangleFinder(), test_config=TEST, max_skip_fraction=0.3)
    assert "cityscapes" not in plain.metrics and "cityscapes" not in plain.table
    assert plain.metrics["segm"] == evaluation.metrics["segm"]


def test_data_without_annotations_gives_results_and_says_that_nothing_is_scored(monkeypatch):
    images = Images()
    truth = images.coco_dict() | {"annotations": []}
    monkeypatch.setattr(images, "coco_dict", lambda: truth)
    evaluation = evaluate(images, RectangleFinder(), test_config=TEST, cityscapes=True)
    assert evaluation.metrics["bbox"]["AP"] is evaluation.metrics["segm"]["AP50"] is None
    assert len(evaluation.results) == 2 * len(images)
    assert "has no objects of these categories, so nothing is scored." in evaluation.table


def test_no_images_are_an_error():
    with pytest.raises(DataError, match="no images"):
        evaluate(Images(0), RectangleFinder(), test_config=TEST)


def test_categories_of_weights_and_data_are_matched_by_name():
    same = match_categories(CATEGORIES, CATEGORIES[::-1])
    assert same.categories == CATEGORIES and same.note == ""
    other_ids = match_categories(CATEGORIES, (Category(1, "green"), Category(2, "red")))
    assert [category.id for category in other_ids.categories] == [2, 1] and other_ids.note == ""
    part = match_categories(CATEGORIES, (Category(-1, "green"), Category(2, "blue")))
    assert [category.id for category in part.categories] == [-2, -1]  # red has no id of the data
    assert part.note == (
        "Scored on the 1 categories that weights and data share by name. Only in the weights: 1 (red). "
        "Only in the data: 1 (blue)."
    )
    with pytest.raises(
        ConfigError, match=r"No category name is shared \(weights: red, green; data: blue\).*--categories"
    ):
        match_categories(CATEGORIES, (Category(3, "blue"),))
    with pytest.raises(ConfigError, match="Two categories of the data are named red"):
        match_categories(CATEGORIES, (Category(3, "red"), Category(4, "red")))


def test_only_shared_categories_are_scored():
    """A model of blue and green on images of red and green: red objects are not missed, blue ones not wrong."""
    matched = match_categories((Category(1, "blue"), Category(2, "green")), CATEGORIES)
    found = evaluate(Images(), RectangleFinder(), test_config=TEST, categories=matched.categories)
    whole = evaluate(Images(), RectangleFinder(), test_config=TEST)
    assert [row["name"] for row in found.metrics["categories"]] == ["green"]
    assert {row["category_id"] for row in found.results} == {8}
    assert found.metrics["bbox"]["AP"] == whole.metrics["categories"][1]["bbox"] > 0.8


def test_devices_share_a_batch_and_each_canvas_is_compiled_once(monkeypatch):
    shapes = []

    def predict(variables, images, image_hw, *, model, test_config):
        shapes.append(images.shape)
        sides = image_hw[:, ::-1].astype(jnp.float32) * variables["params"]["gain"]
        boxes = jnp.concatenate([0 * sides, sides], -1)[:, None]
        masks = jnp.ones((len(images), 1, MASK_SIDE, MASK_SIDE))
        scores = images[:, 0, 0, :1] / 255.0
        heat_maps = jnp.zeros((len(images), 1, 0, 0, 0))
        return Detections(boxes, scores, jnp.ones(scores.shape, jnp.int32), masks, heat_maps, image_hw[:, :1] > 0)

    monkeypatch.setattr(prediction_program, "predict", predict)
    variables = {"params": {"gain": np.float32(1.0)}}
    found = {}
    for count in (1, 8):
        predict_fn = make_predict_fn(variables, ModelConfig(), TEST, make_mesh(jax.devices()[:count]))
        found[count] = evaluate(Images(20), predict_fn, test_config=TEST, num_devices=count).results
    assert found[1] == found[8] and len(found[1]) == 20
    assert shapes == [(1, 64, 96, 3), (1, 96, 64, 3)] * 2  # of each device's share
