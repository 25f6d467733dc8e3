"""Parallel NMS must be exactly greedy NMS: identical to a NumPy loop on a thousand sets with ties."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.ops.nms import suppress_overlaps
from tests import oracles

jitted_suppress = jax.jit(suppress_overlaps, static_argnames=("iou_threshold", "max_kept", "tile_size"))


def random_sets(seed: int, num_sets: int, num_boxes: int):
    # Whole numbers and eight scores: ties of scores, equal boxes and IoUs exactly at the threshold all happen, and
    # float32 decides them as float64 does.
    rng = np.random.default_rng(seed)
    shape = (num_sets, num_boxes)
    corners, sides = rng.integers(0, 24, (*shape, 2)), rng.integers(0, 24, (*shape, 2))
    boxes = np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)
    scores = rng.integers(-4, 4, shape).astype(np.float32) / 8
    return boxes, scores, rng.random(shape) < 0.8, rng.integers(0, 3, shape).astype(np.int32)


def check_against_loop(indices, is_kept, case, max_kept: int, threshold: float) -> int:
    """Returns how many boxes the loop keeps."""
    boxes, scores, valid, groups = case
    expected = oracles.greedy_nms(boxes, scores, valid, groups, threshold, max_kept)
    np.testing.assert_array_equal(is_kept, np.arange(max_kept) < len(expected))
    np.testing.assert_array_equal(indices, expected + [0] * (max_kept - len(expected)))
    return len(expected)


@pytest.mark.parametrize(
    ("threshold", "max_kept", "num_boxes", "tile_size"),
    [
        (0.5, 40, 40, 16),  # three tiles, the last one half empty
        (0.7, 8, 40, 8),  # ends early
        (0.3, 60, 40, 256),  # one tile; more slots than boxes
        (0.0, 10, 24, 5),
    ],
)
def test_identical_to_greedy_loop_on_1000_sets(threshold, max_kept, num_boxes, tile_size):
    sets = random_sets(int(10 * threshold), 250, num_boxes)
    suppress = partial(suppress_overlaps, iou_threshold=threshold, max_kept=max_kept, tile_size=tile_size)
    kept = jax.device_get(jax.jit(jax.vmap(suppress))(*(jnp.asarray(column) for column in sets)))
    cases = list(zip(*sets, strict=True))
    rows = zip(kept.indices, kept.valid, cases, strict=True)
    counts = [check_against_loop(*row, max_kept, threshold) for row in rows]
    assert min(counts) < max(counts) or max_kept == 8


def test_the_form_for_gpus_is_greedy_too(monkeypatch):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *inputs, cuda, **_: cuda(*inputs))
    sets = random_sets(5, 60, 40)
    suppress = partial(suppress_overlaps, iou_threshold=0.5, max_kept=40, tile_size=16)
    kept = jax.device_get(jax.jit(jax.vmap(suppress))(*(jnp.asarray(column) for column in sets)))
    for row in zip(kept.indices, kept.valid, zip(*sets, strict=True), strict=True):
        check_against_loop(*row, 40, 0.5)


def suppress(
    boxes, scores, valid=None, groups=None, *, threshold: float = 0.5, max_kept: int = 8, tile_size: int = 256
):
    boxes, scores = jnp.asarray(boxes, jnp.float32).reshape(-1, 4), jnp.asarray(scores, jnp.float32)
    valid = jnp.ones(len(boxes), bool) if valid is None else jnp.asarray(valid)
    groups = jnp.zeros(len(boxes), jnp.int32) if groups is None else jnp.asarray(groups, jnp.int32)
    return jitted_suppress(
        boxes, scores, valid, groups, iou_threshold=threshold, max_kept=max_kept, tile_size=tile_size
    )


def kept_indices(kept) -> list[int]:
    return np.asarray(kept.indices)[np.asarray(kept.valid)].tolist()


def test_golden_chain():
    # Each box overlaps the next by 0.6. The best drops the second, so the third, which only the second touched, stays:
    # greedy is not "drop whatever overlaps a better box".
    #   0 [----------]
    #   1    [----------]
    #   2       [----------]
    boxes = [[0, 0, 8, 4], [2, 0, 10, 4], [4, 0, 12, 4]]
    assert kept_indices(suppress(boxes, [0.9, 0.8, 0.7])) == [0, 2]
    assert kept_indices(suppress(boxes, [0.8, 0.9, 0.7])) == [1]
    assert kept_indices(suppress(boxes, [0.9, 0.8, 0.7], threshold=0.6)) == [0, 1, 2]  # at the threshold: kept
    assert kept_indices(suppress(boxes, [0.9, 0.8, 0.7], groups=[0, 1, 0])) == [0, 1, 2]


def test_long_chain_across_tiles():
    # Alternately kept and dropped, the longest dependency there is.
    boxes = [[2 * i, 0, 2 * i + 8, 4] for i in range(30)]
    scores = np.linspace(1, 0, 30)
    for tile_size in (1, 4, 7, 30):
        kept = suppress(boxes, scores, max_kept=30, tile_size=tile_size)
        assert kept_indices(kept) == list(range(0, 30, 2))


def test_ties_go_to_the_lowest_index():
    assert kept_indices(suppress([[0, 0, 4, 4]] * 5, [0.5] * 5)) == [0]
    apart = [[10 * i, 0, 10 * i + 4, 4] for i in range(5)]
    assert kept_indices(suppress(apart, [0.5] * 5)) == [0, 1, 2, 3, 4]
    assert kept_indices(suppress(apart, [0.5] * 5, max_kept=3)) == [0, 1, 2]


def test_result_is_free_of_conflicts_and_idempotent():
    boxes, scores, valid, groups = (column[0] for column in random_sets(7, 1, 200))
    kept = kept_indices(suppress(boxes, scores, valid, groups, max_kept=200, tile_size=32))
    assert kept[0] == min(np.flatnonzero(valid), key=lambda i: (-scores[i], i))
    overlap = oracles.iou_matrix(boxes[kept], boxes[kept]) * (groups[kept][:, None] == groups[kept][None])
    assert (overlap - np.eye(len(kept)) <= 0.5).all()
    again = kept_indices(suppress(boxes[kept], scores[kept], None, groups[kept], max_kept=200))
    assert again == list(range(len(kept)))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e9])
def test_invalid_rows_change_nothing(garbage):
    boxes, scores, valid, groups = (column[0] for column in random_sets(8, 1, 50))
    expected = kept_indices(suppress(boxes, scores, valid, groups, max_kept=50))
    boxes, scores = np.where(valid[:, None], boxes, garbage), np.where(valid, scores, garbage)
    assert kept_indices(suppress(boxes, scores, valid, groups, max_kept=50, tile_size=8)) == expected
    boxes, scores = np.pad(boxes, ((0, 30), (0, 0)), constant_values=garbage), np.pad(scores, (0, 30))
    more = suppress(boxes, scores, np.pad(valid, (0, 30)), np.pad(groups, (0, 30)), max_kept=50, tile_size=8)
    assert kept_indices(more) == expected


def test_sizes_one_and_none_valid():
    assert kept_indices(suppress([[0, 0, 4, 4]], [0.1])) == [0]
    nothing = suppress([[0, 0, 4, 4], [9, 9, 12, 12]], [0.1, 0.9], [False, False])
    assert kept_indices(nothing) == [] and np.asarray(nothing.indices).tolist() == [0] * 8


def test_jit_equals_eager():
    case = [jnp.asarray(column[0]) for column in random_sets(9, 1, 60)]
    function = partial(suppress_overlaps, iou_threshold=0.5, max_kept=20, tile_size=16)
    eager, jitted = function(*case), jitted_suppress(*case, **function.keywords)
    np.testing.assert_array_equal(eager.indices, jitted.indices)
    np.testing.assert_array_equal(eager.valid, jitted.valid)


def test_under_vmap_a_shared_column_and_a_loop_over_images_give_the_same():
    sets = [jnp.asarray(column) for column in random_sets(10, 6, 40)]
    sets[3] = sets[3][0]  # the same groups for all
    sets[0] = sets[0].at[0].add(50.0 * jnp.arange(40)[:, None])  # all apart: done after fewer tiles than the others
    function = jax.jit(partial(suppress_overlaps, iou_threshold=0.5, max_kept=16, tile_size=8))
    over_images = jax.vmap(function, in_axes=(0, 0, 0, None))
    together = jax.jit(over_images)(*sets)
    twice = jax.jit(jax.vmap(over_images, in_axes=(0, 0, 0, None)))(
        *(column.reshape(2, 3, *column.shape[1:]) for column in sets[:3]), sets[3]
    )
    for image in range(6):
        alone = function(*(column[image] for column in sets[:3]), sets[3])
        for field in ("indices", "valid"):
            expected = getattr(alone, field)
            np.testing.assert_array_equal(getattr(together, field)[image], expected)
            np.testing.assert_array_equal(getattr(twice, field)[divmod(image, 3)], expected)
