"""Canvases with the least padding, and the size that the objects need."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from mrcnn_jax.recipe.canvas_choice import choose_canvases, resized_sizes, round_up
from mrcnn_jax.recipe.image_sizes import (
    choose_sizes,
    needed_short_side,
    shares_of_canvases,
    smaller_short_sides,
)
from tests.recipe.hand_made import make_facts


def padded(sizes: np.ndarray, canvases: tuple[tuple[int, int], ...]) -> int:
    return sum(min(h * w for h, w in canvases if h >= height and w >= width) for height, width in sizes.tolist())


def test_images_of_one_size_get_one_canvas() -> None:
    assert choose_canvases(np.array([[100, 150]] * 4)) == ((128, 160),)


def test_landscape_and_portrait_get_a_canvas_each() -> None:
    sizes = np.array([[320, 480]] * 5 + [[480, 320]] * 3)
    assert set(choose_canvases(sizes)) == {(320, 480), (480, 320)}
    assert choose_canvases(sizes, most=1) == ((480, 480),)


def test_a_canvas_that_saves_little_is_left_out() -> None:
    assert len(choose_canvases(np.array([[320, 320]] * 9 + [[320, 352]]))) == 1


@pytest.mark.parametrize("seed", range(8))
def test_no_division_by_aspect_ratio_pads_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 12, (7, 2)) * 32
    found = choose_canvases(sizes, most=2)
    order = sizes[np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable")]
    best = min(
        padded(sizes, tuple(tuple(order[a:b].max(axis=0).tolist()) for a, b in itertools.pairwise(cuts)))
        for cuts in [(0, 7), *((0, cut, 7) for cut in range(1, 7))]
    )
    assert padded(sizes, found) <= best / 0.9  # a second canvas has to save a tenth


def test_many_sizes_are_held() -> None:
    sizes = np.random.default_rng(0).integers(100, 900, (500, 2))
    canvases = choose_canvases(sizes)
    assert padded(sizes, canvases) > 0 and all(side % 32 == 0 for canvas in canvases for side in canvas)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        choose_canvases(np.zeros((0, 2), np.int64))


def test_one_long_image_does_not_widen_the_canvas() -> None:
    image_hw = np.array([[256, 256]] * 60 + [[256, 1024]])
    sizes = choose_sizes(image_hw, 256, most_canvases=1)
    assert sizes.canvases == ((256, 256),) and sizes.max_side == 256 and sizes.used > 0.98
    assert choose_sizes(image_hw, 256, most_canvases=1, max_side=1024).canvases == ((256, 1024),)
    assert shares_of_canvases(image_hw, sizes) == {(256, 256): 1.0}


def test_small_objects_enlarge_images_up_to_a_bound() -> None:
    assert needed_short_side(make_facts(image_hw=(256, 320), side=100.0)) == 256, "large enough as they are"
    assert needed_short_side(make_facts(image_hw=(2000, 2000), side=700.0)) == 320, "made smaller"
    small = needed_short_side(make_facts(image_hw=(256, 320), side=13.0))
    assert 384 <= small < 448  # 256 * 20 / 13 = 394
    assert needed_short_side(make_facts(image_hw=(256, 320), side=2.0)) == 512
    assert needed_short_side(make_facts(image_hw=(1000, 1000), side=2.0)) == 800


def test_resized_sizes_keep_to_both_bounds() -> None:
    sizes = resized_sizes(np.array([[100, 300], [400, 200]]), 200, 500)
    np.testing.assert_array_equal(sizes, [[167, 500], [400, 200]])
    assert round_up(1) == 32 and round_up(32) == 32 and round_up(33) == 64
    assert smaller_short_sides(384) == (320, 352, 384) and smaller_short_sides(32) == (32,)


def test_sides_are_relative_to_each_image() -> None:
    facts = make_facts(image_hw=(256, 256), side=40.0)
    doubled = replace(facts, image_hw=2 * facts.image_hw, boxes=2 * facts.boxes)
    assert needed_short_side(doubled) == min(320, 2 * needed_short_side(facts))
