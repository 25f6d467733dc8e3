"""Prediction: the same image alone, among others and on another canvas; fillers; ranges and types."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import TestConfig
from mrcnn_jax.detection.predict import predict
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import Detections
from tests import tiny

CONFIG = TestConfig(score_threshold=0.2, pre_nms_top_n=40, post_nms_top_n=30, max_detections=10, max_candidates=64)
MODEL = MaskRCNN(tiny.MODEL)


@jax.jit
def run(variables, images, image_hw) -> Detections:
    return predict(variables, images, image_hw, model=MODEL, test_config=CONFIG)


def put(image: np.ndarray, canvas: tuple[int, int], fill: int = 0) -> np.ndarray:
    padded = np.full((*canvas, 3), fill, np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


@cache
def results() -> tuple[Detections, Detections, Detections]:
    """One image alone on its canvas; on a larger canvas first and then last of three, the second a filler."""
    variables = tiny.make_variables(tiny.MODEL)
    image, other = (np.asarray(tiny.make_batch(1, (60, 80), seed=s).images[0]) for s in (1, 2))
    alone = run(variables, jnp.asarray(put(image, (64, 96)))[None], jnp.array([[60, 80]]))
    large = (128, 128)
    images = [put(image, large, 77), put(other, large, 255), put(other, large)]
    sizes = jnp.array([[60, 80], [0, 0], [60, 80]])
    first = run(variables, jnp.asarray(np.stack(images)), sizes)
    last = run(variables, jnp.asarray(np.stack(images[::-1])), sizes[::-1])
    return jax.device_get((alone, first, last))


def pick(detections: Detections, index: int) -> Detections:
    return jax.tree.map(lambda leaf: leaf[index], detections)


def test_the_image_has_detections():
    alone = pick(results()[0], 0)
    assert alone.valid.sum() >= 3
    assert (np.diff(alone.scores[alone.valid]) <= 0).all() and alone.scores[alone.valid].min() > 0.2
    boxes = alone.boxes[alone.valid]
    assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= 0
    assert boxes[:, [0, 2]].max() <= 80 and boxes[:, [1, 3]].max() <= 60
    assert set(alone.labels[alone.valid]) <= {1, 2, 3}
    masks = alone.masks
    assert masks.shape == (10, 28, 28) and masks.min() >= 0 and masks.max() <= 1 and masks[alone.valid].std() > 0


def test_place_in_the_batch_does_not_matter():
    _, first, last = results()
    jax.tree.map(np.testing.assert_array_equal, pick(first, 0), pick(last, 2))
    jax.tree.map(np.testing.assert_array_equal, pick(first, 2), pick(last, 0))


def test_canvas_and_company_do_not_matter():
    alone, first, _ = results()
    produced, expected = pick(first, 0), pick(alone, 0)
    np.testing.assert_array_equal(produced.valid, expected.valid)
    np.testing.assert_array_equal(produced.labels, expected.labels)
    # float32 through the whole network, sums of other shapes
    np.testing.assert_allclose(produced.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(produced.boxes, expected.boxes, atol=2e-2)
    np.testing.assert_allclose(produced.masks, expected.masks, atol=2e-3)


def test_a_filler_has_no_detections():
    _, first, last = results()
    for detections in (first, last):
        filler = pick(detections, 1)
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(filler))


def test_rows_without_a_detection_are_zero():
    alone = pick(results()[0], 0)
    empty = jax.tree.map(lambda leaf: leaf[~alone.valid], replace(alone, not_finite=None))  # not of rows
    assert not any(leaf.any() for leaf in jax.tree.leaves(empty))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_are_float32_whatever_the_compute_type(dtype):
    config = replace(tiny.MODEL, dtype=dtype)
    images, image_hw = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8), jax.ShapeDtypeStruct((2, 2), jnp.int32)
    detections = jax.eval_shape(
        lambda v, i, s: predict(v, i, s, model=MaskRCNN(config), test_config=CONFIG),
        tiny.make_variables(tiny.MODEL),
        images,
        image_hw,
    )
    assert detections.boxes.dtype == detections.scores.dtype == detections.masks.dtype == jnp.float32
    assert detections.boxes.shape == (2, 10, 4) and detections.masks.shape == (2, 10, 28, 28)
    assert detections.labels.dtype == jnp.int32 and detections.valid.dtype == jnp.bool
