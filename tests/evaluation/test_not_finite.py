"""An image for which the network computes NaN ends prediction and evaluation with its name: it is not "0 objects"."""

import functools
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import NumericalError
from mrcnn_jax.evaluation.evaluate import evaluate
from mrcnn_jax.inference import augmentation
from mrcnn_jax.inference.prediction_program import make_predict_fn
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.named_leaves import named_leaves, replace_leaves
from tests import tiny
from tests.evaluation.test_evaluate import TEST as RECTANGLES
from tests.evaluation.test_evaluate import Images, RectangleFinder

MODEL = replace(tiny.MODEL, norm="frozen_bn", head_norm="none")
CATEGORIES = tuple(Category(k, f"c{k}") for k in (1, 2, 3))
# One size for all images, and two slots: every batch of one has a filler.
TEST = TestConfig(
    short_side=64,
    max_side=64,
    canvases=((64, 64),),
    batch_size=2,
    score_threshold=0.0,
    pre_nms_top_n=40,
    post_nms_top_n=30,
    max_detections=5,
    max_candidates=64,
)
DARK, BRIGHT = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)


@functools.cache
def overflowing() -> dict:
    """Finite parameters that are too much for a bright image alone: its stem's outputs are infinite."""
    variables = tiny.make_variables(MODEL)
    leaves = named_leaves(variables)
    stem = "params/backbone/stem/conv/kernel"
    kernel = np.zeros(leaves[stem].shape, np.float32)
    kernel[3, 3] = 1e38  # dark is about -2, bright 2.5: six times what float32 holds, and nothing behind a ReLU
    return replace_leaves(variables, leaves | {stem: kernel})


def test_the_predictor_names_the_image_and_fillers_are_none() -> None:
    predictor = Predictor(overflowing(), MODEL, TEST, CATEGORIES)
    predictor.warm_up()
    assert len(predictor([DARK])) == 1
    message = r"^Image images\[1\]: the backbone or the FPN computed values that are not finite"
    with pytest.raises(NumericalError, match=message) as error:
        predictor([DARK, BRIGHT, DARK])
    assert "\n" not in str(error.value) and "--model.norm-eps 1e-5" in str(error.value)
    with pytest.raises(NumericalError, match=r"Image street\.jpg: the backbone"):
        predictor([DARK, DARK, BRIGHT], names=["a.jpg", "b.jpg", "street.jpg"])


class Squares:
    """A data set of one dark and one bright image."""

    name, categories, image_ids = "squares", CATEGORIES, np.array([7, 9])
    sizes = np.array([(64, 64)] * 2)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(image=(DARK, BRIGHT)[index])

    def describe(self, index: int) -> str:
        return f"{index}.png (id {self.image_ids[index]})"


def test_evaluation_names_the_image_on_several_devices() -> None:
    test = replace(TEST, batch_size=1)
    predict_fn = make_predict_fn(overflowing(), MODEL, test, make_mesh(jax.devices()[:2]))
    with pytest.raises(NumericalError, match=r"Image 1\.png \(id 9\): the backbone or the FPN computed"):
        evaluate(Squares(), predict_fn, test_config=test, num_devices=2)


@pytest.mark.parametrize(("first", "second", "part"), [(4, 0, "the RPN"), (0, 1 << 24, "the mask head")])
def test_augmentation_keeps_the_marks_of_every_variant_and_pass(first: int, second: int, part: str) -> None:
    test = replace(RECTANGLES, augment_flip=True, max_detections=4)
    finder, calls = RectangleFinder(), iter(range(1000))

    def of_flipped(marks: int) -> np.ndarray:
        return np.array([marks if next(calls) % 2 else 0], np.int32)  # plain and flipped take turns

    predict_fn = augmentation.augment(
        lambda *inputs: replace(
            finder(*inputs), masks=np.zeros((1, 4, 0, 0), np.float32), not_finite=of_flipped(first)
        ),
        lambda images, image_hw, boxes: replace(
            boxes, masks=np.full((1, 4, 28, 28), 0.75, np.float32), not_finite=boxes.not_finite | of_flipped(second)
        ),
        test,
        (),
    )
    images = Images()
    images.describe = "image {}".format
    with pytest.raises(NumericalError, match=rf"Image image 0: {part} computed"):
        evaluate(images, predict_fn, test_config=test)


def test_marks_of_variants_are_joined_by_image() -> None:
    marks = [np.array([1, 0, 4], np.int32), np.array([2, 0, 4], np.int32)]
    assert augmentation.join_marks(marks).tolist() == [3, 0, 4] and augmentation.join_marks([None, None]) is None
