"""Mask targets read from box-relative bitmaps: goldens, a float64 loop, and what a full-size mask would have said."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.ops.masks import sample_mask_targets
from tests import oracles

jitted_sample = jax.jit(sample_mask_targets, static_argnames="output_size")


def targets(bitmap, box, roi, output_size: int) -> np.ndarray:
    """[m, m] of one object and one RoI."""
    bitmaps = jnp.asarray(bitmap, jnp.uint8)[None]
    boxes, rois = jnp.asarray([box], jnp.float32), jnp.asarray([roi], jnp.float32)
    return np.asarray(jitted_sample(bitmaps, boxes, rois, jnp.zeros(1, jnp.int32), output_size=output_size))[0]


def test_roi_equal_to_the_box_gives_the_bitmap():
    pattern = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0]])
    box = [10, 20, 34, 50]
    np.testing.assert_array_equal(targets(np.kron(pattern, np.ones((4, 4))), box, box, 3), pattern)
    np.testing.assert_array_equal(targets(np.ones((112, 112)), box, box, 28), np.ones((28, 28)))
    np.testing.assert_array_equal(targets(np.zeros((112, 112)), box, box, 28), np.zeros((28, 28)))


def test_roi_half_outside_is_zero_outside():
    #   the box    the RoI, twice as wide and to the right, and twice as high and above
    bitmap = np.ones((16, 16))
    right = targets(bitmap, [0, 0, 16, 16], [8, 0, 24, 16], 4)
    np.testing.assert_array_equal(right, np.tile([1, 1, 0, 0], (4, 1)))
    above = targets(bitmap, [0, 0, 16, 16], [0, -16, 16, 16], 4)
    np.testing.assert_array_equal(above, np.tile([[0], [0], [1], [1]], (1, 4)))
    np.testing.assert_array_equal(targets(bitmap, [0, 0, 16, 16], [40, 40, 56, 56], 4), np.zeros((4, 4)))


def test_roi_inside_the_box_magnifies():
    bitmap = np.zeros((16, 16))
    bitmap[:8, :8] = 1  # the upper left quarter
    np.testing.assert_array_equal(targets(bitmap, [0, 0, 32, 32], [8, 8, 24, 24], 4), np.pad(np.ones((2, 2)), (0, 2)))
    np.testing.assert_array_equal(targets(bitmap, [0, 0, 32, 32], [0, 0, 16, 16], 4), np.ones((4, 4)))


@pytest.mark.parametrize("flip", [False, True])
def test_cells_that_are_exactly_half_covered_count(flip):
    bitmap = np.zeros((16, 16))
    bitmap[:, ::2] = 1  # every other column: each cell of 4 x 4 is half covered
    bitmap = bitmap.T if flip else bitmap
    # A box whose sides are no power of two, so that rounding is at work.
    np.testing.assert_array_equal(targets(bitmap, [3.3, 7.7, 40.1, 91.9], [3.3, 7.7, 40.1, 91.9], 4), np.ones((4, 4)))


def test_equals_loop():
    # A target cell is 1 when the mean of 4 x 4 bilinear samples of the bitmap is at least a half.
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 2, (3, 7, 7))
    bitmaps = np.kron(blocks, np.ones((4, 4))).astype(np.uint8)  # [3, 28, 28]
    boxes = np.array([[5, 5, 40, 60], [0, 10, 90, 33], [20, 20, 47, 48]], np.float32)
    matched = np.array([0, 0, 1, 1, 2, 2, 2])
    rois = (boxes[matched] + rng.uniform(-8, 8, (7, 4))).astype(np.float32)
    produced = jitted_sample(
        jnp.asarray(bitmaps), jnp.asarray(boxes), jnp.asarray(rois), jnp.asarray(matched), output_size=7
    )
    checked = 0
    for row, (roi, index) in enumerate(zip(rois.astype(np.float64), matched, strict=True)):
        x0, y0, x1, y1 = boxes[index].astype(np.float64)
        scale = 28 / np.array([x1 - x0, y1 - y0] * 2)
        cells = (roi - [x0, y0, x0, y0]) * scale
        covered = oracles.roi_align(bitmaps[index][..., None].astype(np.float64), cells, 1, 7, 4, aligned=True)[..., 0]
        clear = np.abs(covered - 0.5) > 2e-3
        np.testing.assert_array_equal(produced[row][clear], covered[clear] >= 0.5)
        checked += clear.sum()
    assert checked >= 0.97 * produced.size


def test_close_to_the_exact_target_of_smooth_objects():
    # What a full-size mask would give: the ellipse itself at the centres of 16 x 16 points per cell.
    rng, ious = np.random.default_rng(1), []
    for _ in range(20):
        box = np.concatenate([rng.uniform(0, 50, 2), rng.uniform(80, 200, 2)])
        roi = (box + rng.uniform(-12, 12, 4)).astype(np.float32)

        def inside(x, y):
            x0, y0, x1, y1 = box  # noqa: B023
            return ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1

        grid = (np.arange(112) + 0.5) / 112
        bitmap = inside(box[0] + grid[None] * (box[2] - box[0]), box[1] + grid[:, None] * (box[3] - box[1]))
        fine = (np.arange(28 * 16) + 0.5) / (28 * 16)
        exact = inside(roi[0] + fine[None] * (roi[2] - roi[0]), roi[1] + fine[:, None] * (roi[3] - roi[1]))
        exact = exact.reshape(28, 16, 28, 16).mean(axis=(1, 3)) >= 0.5
        target = targets(bitmap, box, roi, 28) > 0
        ious.append((target & exact).sum() / (target | exact).sum())
    assert np.mean(ious) >= 0.985 and min(ious) >= 0.97


def test_rows_are_independent_and_garbage_stays_in_its_row():
    rng = np.random.default_rng(2)
    bitmaps = jnp.asarray(rng.integers(0, 2, (3, 16, 16)), jnp.uint8)
    boxes = jnp.array([[0, 0, 20, 20], [np.nan, np.inf, 1, 2], [0, 0, 0, 0]], jnp.float32)
    rois = jnp.array([[1, 2, 18, 19], [0, 0, 0, 0], [3, 3, 9, 9], [np.nan, 0, 1, 1]], jnp.float32)
    matched = jnp.array([0, 0, 2, 1])
    together = jitted_sample(bitmaps, boxes, rois, matched, output_size=4)
    alone = jitted_sample(bitmaps[:1], boxes[:1], rois[:1], matched[:1], output_size=4)
    np.testing.assert_array_equal(together[0], alone[0])
    assert np.isin(together, [0.0, 1.0]).all() and together.dtype == jnp.float32


def test_vmap_equals_loop_and_jit_equals_eager():
    rng = np.random.default_rng(3)
    bitmaps = jnp.asarray(rng.integers(0, 2, (2, 3, 16, 16)), jnp.uint8)
    boxes = jnp.asarray(np.tile([[2, 3, 40, 50]], (2, 3, 1)), jnp.float32)
    rois = boxes[:, :2] + jnp.asarray(rng.uniform(-3, 3, (2, 2, 4)), jnp.float32)
    matched = jnp.asarray(rng.integers(0, 3, (2, 2)), jnp.int32)
    together = jax.jit(jax.vmap(partial(sample_mask_targets, output_size=4)))(bitmaps, boxes, rois, matched)
    for index in range(2):
        alone = sample_mask_targets(bitmaps[index], boxes[index], rois[index], matched[index], output_size=4)
        np.testing.assert_array_equal(together[index], alone)
