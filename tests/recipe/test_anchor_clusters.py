"""Anchors by k-means: IoU against all anchors of a grid, groups of boxes, floors, given ratios."""

import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.ops.anchors import make_cell_anchors, make_level_anchors
from mrcnn_jax.recipe.anchor_clusters import anchor_ious, cluster_anchors, measure_anchors

STRIDES = (4, 8, 16, 32, 64)


def boxes_of(widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    centres = rng.uniform(200, 300, (len(widths), 2))
    half = np.stack([widths, heights], axis=1) / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def test_a_box_on_a_grid_point_is_its_own_anchor() -> None:
    box = np.array([[12.0, 12.0, 52.0, 52.0]])  # centred at (32, 32): a grid point of all levels but the last
    ious = anchor_ious(box, [40.0] * 5, [1.0], STRIDES)[0, :, 0]
    np.testing.assert_allclose(ious, [1, 1, 1, 1, 64 / (3200 - 64)])


def test_ious_are_those_of_the_best_of_all_anchors() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(60, 150, (20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 80, (20, 2))], axis=1)
    sizes, ratios = (8.0, 30.0), (0.5, 1.7)
    strides = (8, 16)
    found = anchor_ious(boxes, sizes, ratios, strides)
    for level, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        for index, ratio in enumerate(ratios):
            hw = (256 // stride, 256 // stride)
            anchors = np.asarray(
                make_level_anchors(hw, jnp.array([stride, stride]), make_cell_anchors((size,), (ratio,))), np.float64
            )
            low = np.maximum(boxes[:, None, :2], anchors[None, :, :2])
            high = np.minimum(boxes[:, None, 2:], anchors[None, :, 2:])
            shared = np.clip(high - low, 0, None).prod(axis=-1)
            areas = [(each[:, 2:] - each[:, :2]).prod(axis=-1) for each in (boxes, anchors)]
            best = (shared / (areas[0][:, None] + areas[1][None] - shared)).max(axis=1)
            np.testing.assert_allclose(found[:, level, index], best, atol=1e-5)  # anchors are float32


def test_groups_of_boxes_are_found() -> None:
    sides = np.repeat([20.0, 100.0], 50)
    anchors = cluster_anchors(boxes_of(sides, sides), STRIDES)
    assert anchors.ratios == (1.0,), "squares need one ratio"
    assert min(abs(size - 20) for size in anchors.sizes) <= 2 and min(abs(size - 100) for size in anchors.sizes) <= 10
    assert anchors.coverage == 1.0


def test_tall_and_wide_boxes_need_two_ratios() -> None:
    short, long = np.full(50, 30.0), np.full(50, 90.0)
    boxes = boxes_of(np.concatenate([short, long]), np.concatenate([long, short]))
    anchors = cluster_anchors(boxes, STRIDES)
    assert anchors.ratios == (0.33, 3.0)
    assert anchors.coverage > 0.95 > cluster_anchors(boxes, STRIDES, ratios=(1.0,)).coverage


def test_sizes_ascend_and_leave_no_gaps_between_cells() -> None:
    for side in (3.0, 10.0, 500.0):
        sizes = cluster_anchors(boxes_of(np.full(5, side), np.full(5, side)), STRIDES).sizes
        assert list(sizes) == sorted(sizes)
        assert all(size >= 2 * stride for size, stride in zip(sizes, STRIDES, strict=True))


def test_clusters_are_better_than_the_usual_anchors() -> None:
    rng = np.random.default_rng(2)
    sides = 40 * np.exp(0.6 * rng.standard_normal(400))
    boxes = boxes_of(sides, 2 * sides)
    found = cluster_anchors(boxes, STRIDES)
    usual = measure_anchors(boxes, (32.0, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0), STRIDES)
    assert found.mean_iou > usual.mean_iou and found.coverage > usual.coverage + 0.04, "with a third of the anchors"


def test_one_box_is_enough_and_none_is_refused() -> None:
    assert len(cluster_anchors(np.array([[10.0, 10, 30, 50]]), STRIDES).sizes) == 5
    assert measure_anchors(np.zeros((0, 4)), (8.0,), (1.0,), (4,)).coverage == 0
    with pytest.raises(ValueError, match="at least one box"):
        cluster_anchors(np.zeros((0, 4)), STRIDES)
