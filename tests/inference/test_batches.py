"""Images are grouped by canvas, placed in its corner, and come back in order with their own detections."""

import numpy as np

from mrcnn_jax.config import TestConfig
from mrcnn_jax.inference.batches import assemble_batch, plan_batches, predict_images
from mrcnn_jax.structures import Detections

TEST = TestConfig(short_side=64, max_side=96, canvases=((64, 96), (96, 64)))
SIZES = [(64, 96), (96, 64), (120, 180), (10, 10), (200, 100), (1, 4000)]


def test_every_image_is_in_one_batch_of_its_canvas():
    batches = plan_batches(SIZES, TEST, 2)
    assert [(batch.canvas, batch.indices) for batch in batches] == [
        ((64, 96), (0, 2)),
        ((96, 64), (1, 4)),
        ((64, 96), (3, 5)),
    ]
    assert plan_batches([], TEST, 2) == []


def test_images_lie_in_the_corner_and_filler_has_no_size():
    images = [np.full((*hw, 3), 200, np.uint8) for hw in ((120, 180), (1, 4000))]
    batch = assemble_batch((7, 9), images, (64, 96), TEST, 4)
    assert batch.indices == (7, 9)
    assert batch.images.shape == (4, 64, 96, 3) and batch.images.dtype == np.uint8
    assert batch.image_hw.dtype == np.int32 and batch.image_hw.tolist() == [[64, 96], [1, 96], [0, 0], [0, 0]]
    assert (batch.images[0] == 200).all() and (batch.images[1, :1] == 200).all()
    assert not batch.images[1, 1:].any() and not batch.images[2:].any()


def test_each_image_gets_its_own_detections_with_one_batch_ahead():
    events = []

    def predict_fn(images, image_hw):
        events.append("predict")
        first = images[:, 0, 0, 0].astype(np.float32)[:, None]  # [B, 1]
        zeros = np.zeros((len(images), 1, 4), np.float32)
        heat_maps = np.zeros((len(images), 1, 0, 0, 0), np.float32)
        return Detections(zeros, first, first.astype(np.int32), zeros[..., None], heat_maps, first > 0)

    images = [np.full((64, 96, 3), value, np.uint8) for value in (10, 20, 30)]
    groups = [((0, 1), images[:2]), ((2,), images[2:])]
    batches = [assemble_batch(indices, group, (64, 96), TEST, 2) for indices, group in groups]
    seen = []
    for index, resized_hw, detections in predict_images(predict_fn, batches):
        events.append("use")
        seen.append((index, resized_hw, detections.scores.tolist()))
    assert seen == [(0, (64, 96), [10.0]), (1, (64, 96), [20.0]), (2, (64, 96), [30.0])]
    assert events == ["predict", "predict", "use", "use", "use"]
