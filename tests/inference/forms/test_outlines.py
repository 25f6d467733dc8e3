"""Outlines: exact ones give back the mask, simplified ones stay within their error, joined rings enclose the mask."""

import cv2
import numpy as np
import pytest

from mrcnn_jax.inference.forms.outlines import Polygon, join_parts, ring_area, simplify_ring, trace_outline
from tests.oracles import rasterise_rings

RING = np.array(["......", ".####.", ".#..#.", ".#.##.", ".####.", "......"])
TWO = np.array(["##...", "##.#.", "..#..", "....#"])


def as_mask(rows: np.ndarray) -> np.ndarray:
    return np.array([list(row) for row in rows]) == "#"


def rings_of(polygons: list[Polygon]) -> list[np.ndarray]:
    return [ring for polygon in polygons for ring in (polygon.outer, *polygon.holes)]


def as_set(ring: np.ndarray) -> set[tuple[float, float]]:
    return {(x, y) for x, y in ring.tolist()}


def random_masks(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.random(rng.integers(1, 14, 2)) < rng.random() for _ in range(count)]


def smooth_mask(seed: int, side: int = 60) -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(seed).random((side, side)), (0, 0), 4) > 0.5


def test_a_ring_has_a_hole_in_pixel_edges() -> None:
    (polygon,) = trace_outline(as_mask(RING))
    assert as_set(polygon.outer) == {(1, 1), (5, 1), (5, 5), (1, 5)}
    (hole,) = polygon.holes
    assert as_set(hole) == {(2, 2), (4, 2), (4, 3), (3, 3), (3, 4), (2, 4)}
    assert ring_area(polygon.outer) == 16 and ring_area(hole) == -3


def test_pixels_that_touch_at_a_corner_are_one_part() -> None:
    parts = trace_outline(as_mask(TWO))
    assert sorted(ring_area(part.outer) for part in parts) == [1, 6]
    assert trace_outline(np.zeros((4, 5), bool)) == [] == trace_outline(np.zeros((0, 0), bool))


def test_exact_outlines_and_joined_rings_give_back_the_mask() -> None:
    for mask in [as_mask(RING), as_mask(TWO), np.ones((3, 7), bool), *random_masks(150)]:
        polygons = trace_outline(mask)
        np.testing.assert_array_equal(rasterise_rings(rings_of(polygons), mask.shape), mask)
        assert len(polygons) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
        assert all(ring_area(polygon.outer) > 0 for polygon in polygons)
        assert all(ring_area(hole) < 0 for polygon in polygons for hole in polygon.holes)
        if polygons:
            joined = join_parts(polygons)
            np.testing.assert_array_equal(rasterise_rings([joined], mask.shape), mask)
            assert ring_area(joined) == mask.sum(), "enclosed once, whatever the filling rule"


def distance(points: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Distances [K] of points from the nearest point of a ring's sides."""
    along = np.roll(ring, -1, axis=0) - ring
    share = ((points[:, None] - ring) * along).sum(-1) / (along**2).sum(-1)
    nearest = ring + np.clip(share, 0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


def dense(ring: np.ndarray) -> np.ndarray:
    shares = np.linspace(0, 1, 33)[:, None, None]
    return (ring + shares * (np.roll(ring, -1, axis=0) - ring)).reshape(-1, 2)


@pytest.mark.parametrize("tolerance", [0.0, 0.4, 1.0, 2.5])
def test_simplified_outlines_stay_within_the_stated_error(tolerance: float) -> None:
    num_exact = num_simplified = 0
    for mask in [smooth_mask(0), smooth_mask(1), *random_masks(20)]:
        for exact, simplified in zip(trace_outline(mask), trace_outline(mask, tolerance), strict=True):
            assert len(exact.holes) == len(simplified.holes)
            for before, after in zip(rings_of([exact]), rings_of([simplified]), strict=True):
                assert distance(dense(before), after).max() <= tolerance + 1e-9
                assert distance(dense(after), before).max() <= tolerance + 1e-9
                num_exact, num_simplified = num_exact + len(before), num_simplified + len(after)
    assert num_simplified <= num_exact * {0.0: 1.0, 0.4: 1.5, 1.0: 0.8, 2.5: 0.8}[tolerance]


def test_slanted_sides_lose_their_stairs_and_masks_keep_their_area() -> None:
    disc = np.hypot(*np.mgrid[-40:41, -40:41]) <= 35.3
    (exact,), (simplified,) = trace_outline(disc), trace_outline(disc, 1.0)
    assert len(simplified.outer) < len(exact.outer) / 5
    drawn = rasterise_rings([simplified.outer], disc.shape)
    assert (drawn & disc).sum() / (drawn | disc).sum() > 0.98


def test_rings_that_would_vanish_remain() -> None:
    line = np.zeros((3, 40), bool)
    line[1, 2:38] = True
    (polygon,) = trace_outline(line, 5.0)
    assert as_set(polygon.outer) == {(2, 1), (38, 1), (38, 2), (2, 2)}
    square = np.array([[0, 0], [1, 0], [2, 0], [2, 1], [2, 2], [1, 2], [0, 2], [0, 1]])
    assert as_set(simplify_ring(square, 0.0)) == {(0, 0), (2, 0), (2, 2), (0, 2)}
