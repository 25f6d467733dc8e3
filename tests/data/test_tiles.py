"""Tiles cover the image, are of one size, overlap as asked, and their overlapping pairs are found without a search."""

import itertools

import numpy as np
import pytest

from mrcnn_jax.data.tiles import plan_intervals, plan_tiles
from mrcnn_jax.errors import ConfigError


def test_intervals_of_a_short_axis_by_hand() -> None:
    assert plan_intervals(100, 100, 20) == ((0, 100),)
    assert plan_intervals(60, 100, 20) == ((0, 60),)
    assert plan_intervals(101, 100, 20) == ((0, 100), (1, 101))
    assert plan_intervals(180, 100, 20) == ((0, 100), (80, 180))
    assert plan_intervals(181, 100, 20) == ((0, 100), (40, 140), (81, 181))


@pytest.mark.parametrize("tile,overlap", [(1, 0), (7, 0), (8, 4), (10, 3), (64, 32)])
def test_tiles_cover_every_pixel_overlap_enough_and_are_as_few_as_possible(tile: int, overlap: int) -> None:
    for length in [*range(1, 60), 200, 1001]:
        intervals = plan_intervals(length, tile, overlap)
        starts, stops = np.array(intervals).T
        assert starts[0] == 0 and stops[-1] == length
        assert (stops - starts == min(tile, length)).all()
        shared = stops[:-1] - starts[1:]
        assert (shared >= overlap).all() and (len(shared) == 0 or np.ptp(shared) <= 1)
        # One tile fewer could not reach the end.
        assert len(intervals) == 1 or tile + (len(intervals) - 2) * (tile - overlap) < length


@pytest.mark.parametrize("image_hw", [(50, 50), (130, 33), (257, 301), (64, 400)])
def test_overlapping_pairs_are_those_of_a_search(image_hw: tuple[int, int]) -> None:
    grid = plan_tiles(image_hw, 64, 32)
    expected = {
        (i, j)
        for (i, a), (j, b) in itertools.combinations(enumerate(grid.windows), 2)
        if max(a[0], b[0]) < min(a[1], b[1]) and max(a[2], b[2]) < min(a[3], b[3])
    }
    pairs = list(grid.overlapping())
    assert len(pairs) == len(set(pairs)) and {tuple(sorted(pair)) for pair in pairs} == expected
    assert len(grid) == len(grid.windows) and grid.image_hw == image_hw


def test_sides_of_the_image_cut_nothing() -> None:
    grid = plan_tiles((100, 250), 100, 20)
    assert [grid.inner_sides(index) for index in range(3)] == [
        (False, False, False, True),
        (False, False, True, True),
        (False, False, True, False),
    ]


@pytest.mark.parametrize("tile,overlap,text", [(0, 0, "tile: expected 1"), (10, 6, "0 to 5"), (10, -1, "0 to 5")])
def test_other_sizes_are_refused(tile: int, overlap: int, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        plan_tiles((100, 100), tile, overlap)
