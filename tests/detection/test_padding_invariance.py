"""What is marked invalid has no effect on losses and gradients, bit for bit, whatever it holds."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.detection.objective import compute_objective, hide_invalid
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import Batch, GroundTruth
from tests import tiny

BATCH = tiny.make_batch(3, num_slots=4, num_objects=3)
LAST_IS_FILLER = BATCH.replace(valid=jnp.array([True, True, False]))


def assert_identical(produced, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, produced, expected)


def spoil(truth: GroundTruth, invalid: jax.Array, garbage: float) -> GroundTruth:
    """Garbage in the rows `invalid` [B, G]."""
    masks = jnp.where(invalid[..., None, None], jnp.uint8(255), truth.masks)
    boxes = jnp.where(invalid[..., None], garbage, truth.boxes)
    return truth.replace(boxes=boxes, labels=jnp.where(invalid, 2**31 - 1, truth.labels), masks=masks)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 17.0])
def test_garbage_in_invalid_objects(objective, garbage):
    truth = spoil(BATCH.ground_truth, ~BATCH.ground_truth.valid, garbage)
    sums, gradients = objective(BATCH)
    assert sums["foreground_rois"] > 0
    assert_identical(objective(BATCH.replace(ground_truth=truth)), (sums, gradients))


@pytest.mark.parametrize("garbage", [0.0, np.nan])
def test_more_invalid_objects(objective, garbage):
    def widen(leaf: jax.Array) -> jax.Array:
        return jnp.pad(leaf, ((0, 0), (0, 5)) + ((0, 0),) * (leaf.ndim - 2))

    truth = jax.tree.map(widen, BATCH.ground_truth)
    if garbage != 0:
        truth = spoil(truth, ~truth.valid, garbage)
    assert_identical(objective(BATCH.replace(ground_truth=truth)), objective(BATCH))


def replace_last(batch: Batch, other: Batch) -> Batch:
    replaced = jax.tree.map(lambda leaf, new: leaf.at[2].set(new[2]), batch, other)
    return replaced.replace(valid=batch.valid)


def test_content_of_an_invalid_image(objective):
    expected = objective(LAST_IS_FILLER)
    assert expected[0]["num_images"] == 2
    assert_identical(objective(replace_last(LAST_IS_FILLER, tiny.make_batch(3, num_slots=4, seed=9))), expected)
    zeros = jax.tree.map(jnp.zeros_like, BATCH)
    assert_identical(objective(replace_last(LAST_IS_FILLER, zeros)), expected)
    wild = BATCH.replace(
        images=jnp.full_like(BATCH.images, 255),
        image_hw=jnp.full_like(BATCH.image_hw, 2**20),
        ground_truth=spoil(BATCH.ground_truth, jnp.ones((3, 4), bool), np.nan),
        sample_index=BATCH.sample_index - 77,
    )
    assert_identical(objective(replace_last(LAST_IS_FILLER, wild)), expected)


@pytest.mark.slow  # one more program, for what the tests above say bit for bit
def test_an_invalid_image_more(objective):
    # Not bit for bit: a matrix product of XLA on the CPU splits its inner sum by the number of its rows, so that
    # convolutions of two and of three images round differently, from layer3 on in this model, by 3e-6.
    (sums, gradients), (expected, expected_gradients) = (
        objective(batch) for batch in (LAST_IS_FILLER, jax.tree.map(lambda leaf: leaf[:2], BATCH))
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), sums, expected)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradients))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5 * scale), gradients, expected_gradients)


def test_hidden_rows_are_zero():
    truth = spoil(BATCH.ground_truth, ~BATCH.ground_truth.valid, np.nan)
    hidden = hide_invalid(truth, jnp.array([True, False, True]))
    valid = np.asarray(BATCH.ground_truth.valid) & np.array([[True], [False], [True]])
    np.testing.assert_array_equal(hidden.valid, valid)
    for leaf, expected in ((hidden.boxes, BATCH.ground_truth.boxes), (hidden.labels, BATCH.ground_truth.labels)):
        np.testing.assert_array_equal(leaf[valid], expected[valid])
        assert not np.asarray(leaf)[~valid].any()


def test_an_invalid_image_is_in_no_batch_statistics():
    config = replace(tiny.MODEL, norm="sync_bn", head_norm="none", neck="dc5", masks=False)
    variables = tiny.make_variables(config)
    model_state = {"batch_stats": variables["batch_stats"]}
    run = jax.jit(partial(compute_objective, model=MaskRCNN(config), targets_config=tiny.TARGETS))
    filler = jax.tree.map(lambda leaf: leaf[1:], LAST_IS_FILLER)  # one image and a filler
    bright = filler.replace(images=filler.images.at[1].set(255))
    results = [run(variables["params"], model_state, batch, jax.random.key(0)) for batch in (filler, bright)]
    assert_identical(results[1], results[0])
    assert not np.array_equal(
        results[0].model_state["batch_stats"]["backbone"]["stem"]["norm"]["mean"],
        variables["batch_stats"]["backbone"]["stem"]["norm"]["mean"],
    )
