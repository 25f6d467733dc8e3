"""Anchors: numbers worked out by hand, and a loop over cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.ops.anchors import (
    _take_deltas_of_anchors,
    _take_deltas_of_cells,
    make_cell_anchors,
    make_level_anchors,
    take_deltas,
)


def test_cell_anchors_golden():
    # Area 32 x 32; ratio is height / width, so 0.5 is the wide one: 45.25 x 22.63.
    wide, square, high = make_cell_anchors((32.0,), (0.5, 1.0, 2.0))
    np.testing.assert_allclose(wide, [-22.627417, -11.313708, 22.627417, 11.313708], rtol=1e-6)
    np.testing.assert_allclose(square, [-16, -16, 16, 16])
    np.testing.assert_allclose(high, [-11.313708, -22.627417, 11.313708, 22.627417], rtol=1e-6)


def test_level_anchors_golden():
    # Two rows and three columns of cells 8 px apart: row, column, ratio.
    anchors = make_level_anchors((2, 3), jnp.array([8, 8]), make_cell_anchors((16.0,), (1.0, 4.0)))
    assert anchors.shape == (12, 4) and anchors.dtype == np.float32
    np.testing.assert_array_equal(anchors[0], [-8, -8, 8, 8])  # cell (0, 0), centred on the corner
    np.testing.assert_array_equal(anchors[1], [-4, -16, 4, 16])
    np.testing.assert_array_equal(anchors[2], [0, -8, 16, 8])  # the next column
    np.testing.assert_array_equal(anchors[6], [-8, 0, 8, 16])  # the next row
    np.testing.assert_array_equal(anchors[-1], [16 - 4, 8 - 16, 16 + 4, 8 + 16])  # the last cell


@pytest.mark.parametrize("feature_hw", [(1, 1), (3, 5), (0, 4)])
def test_level_anchors_equal_loop(feature_hw):
    ratios, size, stride = (0.5, 1.0, 2.0), 64.0, 16
    expected = []
    for row in range(feature_hw[0]):
        for column in range(feature_hw[1]):
            for ratio in ratios:
                width, height = size / np.sqrt(ratio), size * np.sqrt(ratio)
                x, y = column * stride, row * stride
                expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    anchors = make_level_anchors(feature_hw, jnp.full(2, stride), make_cell_anchors((size,), ratios))
    np.testing.assert_allclose(anchors, np.array(expected).reshape(-1, 4), rtol=1e-6, atol=1e-4)


def test_several_sizes_on_one_map():
    # C4: fifteen anchors a cell, sizes outside, ratios inside.
    sizes, ratios = (32.0, 64.0), (0.5, 1.0, 2.0)
    anchors = make_cell_anchors(sizes, ratios)
    np.testing.assert_array_equal(anchors[:3], make_cell_anchors((32.0,), ratios))
    np.testing.assert_array_equal(anchors[3:], make_cell_anchors((64.0,), ratios))


def test_rounded_corners():
    # torchvision: 22.627 and 11.314 become 23 and 11; halves go to the even number.
    np.testing.assert_array_equal(make_cell_anchors((32.0,), (0.5,), rounded=True), [[-23, -11, 23, 11]])
    np.testing.assert_array_equal(make_cell_anchors((5.0,), (1.0,), rounded=True), [[-2, -2, 2, 2]])


def test_strides_differ_by_axis():
    anchors = make_level_anchors((2, 2), jnp.array([64, 58]), make_cell_anchors((2.0,), (1.0,)))
    np.testing.assert_array_equal(anchors[:, 0] + 1, [0, 58, 0, 58])
    np.testing.assert_array_equal(anchors[:, 1] + 1, [0, 0, 64, 64])


@pytest.mark.parametrize("num_anchors", [1, 3])
def test_deltas_are_taken_from_the_rows_of_cells(num_anchors):
    each = np.random.default_rng(0).normal(size=(5 * num_anchors, 4)).astype(np.float32)  # a row an anchor
    rows, index = jnp.asarray(each.reshape(5, -1)), jnp.array([5 * num_anchors - 1, 0, 2, 5 * num_anchors + 7])
    expected = np.zeros_like(each)
    expected[index[:3]] = 1
    for take in (take_deltas, _take_deltas_of_anchors, _take_deltas_of_cells):
        np.testing.assert_array_equal(take(rows, index), [*each[index[:3]], np.zeros(4)])
        gradient = jax.grad(lambda rows, take=take: take(rows, index).sum())(rows)
        np.testing.assert_array_equal(gradient.reshape(each.shape), expected)


def test_a_neighbour_that_is_not_finite_does_not_spread():
    rows = jnp.array([[1.0, 2, 3, 4, jnp.nan, jnp.inf, 0, 0]])
    np.testing.assert_array_equal(take_deltas(rows, jnp.array([0])), [[1, 2, 3, 4]])
    assert jnp.isfinite(jax.grad(lambda rows: take_deltas(rows, jnp.array([0])).sum())(rows)).all()
