"""Outlines of masks as polygons, with holes and parts, in pixels of the image.

Coordinates are those of pixel edges: pixel (row i, column j) covers x from j to j + 1 and y from i to i + 1. A pixel
belongs to a polygon if its centre does, so an exact outline gives back the same mask. A ring is an array [K, 2] of x, y
that is not repeated at its end. The area by the shoelace formula is positive for outer rings and negative for holes.
"""

from typing import NamedTuple

import cv2
import numpy as np

_CUT = 0.5**1.5
"""Distance of a pixel's corner from the line between the middles of two of its sides."""


class Polygon(NamedTuple):
    """A connected part of a mask."""

    outer: np.ndarray
    """[K, 2] float64."""
    holes: list[np.ndarray]


def trace_outline(mask: np.ndarray, simplify: float = 0.0) -> list[Polygon]:
    """Returns the connected parts of a mask, bool [h, w], as polygons; [] for an empty mask.

    Pixels that touch at a corner are connected, and background pixels that touch at a corner are not. With `simplify`
    0, outlines follow the edges of the pixels. Otherwise, no point of the exact outline and of the simplified one is
    further than `simplify` pixels from the other; rings that would vanish remain exact. Simplified rings may cross.
    """
    # With every pixel doubled, OpenCV's contours through pixel centres determine the pixel edges.
    doubled = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons: dict[int, Polygon] = {}
    rings = [_to_edges(contour[:, 0]) for contour in contours]
    parents = [] if hierarchy is None else hierarchy[0][:, 3].tolist()
    for index, (ring, parent) in enumerate(zip(rings, parents, strict=True)):
        if parent < 0:
            polygons[index] = Polygon(_oriented(simplify_ring(ring, simplify), 1), [])
    for ring, parent in zip(rings, parents, strict=True):
        if parent >= 0:
            polygons[parent].holes.append(_oriented(simplify_ring(ring, simplify), -1))
    return list(polygons.values())


def _to_edges(points: np.ndarray) -> np.ndarray:
    """Returns all corners of pixels along a contour of the doubled mask, int [K, 2]."""
    corners = (points + 1) // 2
    return corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]


def simplify_ring(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns a ring [K, 2] with fewer points, float64, from one that visits every corner of pixels on its way.

    No point of either is further than `tolerance` from the other. With less than 0.36, only points on straight lines
    are left out. Otherwise the ring goes through the middles of the pixels' sides, which removes the stairs of slanted
    lines, and points are left out by the method of Douglas and Peucker.
    """
    exact = _without_straight(ring.astype(np.float64))
    if tolerance < _CUT:
        return exact
    middles = _without_straight((ring + np.roll(ring, -1, axis=0)) / 2)
    kept = _douglas_peucker(middles, tolerance - _CUT)
    return kept if len(kept) >= 3 and ring_area(kept) * ring_area(exact) > 0 else exact


def _without_straight(ring: np.ndarray) -> np.ndarray:
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    goes_back = (before * after).sum(axis=1) < 0  # along a line that is visited in both directions
    return ring[turns | goes_back]


def _douglas_peucker(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns the points between which no other is further than `tolerance` from the straight connection.

    OpenCV's approxPolyDP removes further points at its end, without respecting the tolerance.
    """
    closed = np.concatenate([ring, ring[:1]])
    far = int(((ring - ring[0]) ** 2).sum(axis=1).argmax())
    keep = np.zeros(len(closed), bool)
    keep[[0, far]] = True
    pending = [(0, far), (far, len(ring))]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        distances = _distance_to_segment(closed[first + 1 : last], closed[first], closed[last])
        worst = int(distances.argmax())
        if distances[worst] > tolerance:
            middle = first + 1 + worst
            keep[middle] = True
            pending += [(first, middle), (middle, last)]
    return ring[keep[:-1]]


def _distance_to_segment(points: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Returns the distances [K] of points [K, 2] from a segment."""
    along = stop - start
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0.0, 1.0) if length else np.zeros(len(points))
    return np.hypot(*(points - start - share[:, None] * along).T)


def ring_area(ring: np.ndarray) -> float:
    """Returns the signed area of a ring [K, 2] by the shoelace formula."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _oriented(ring: np.ndarray, sign: int) -> np.ndarray:
    return ring if ring_area(ring) * sign >= 0 else ring[::-1]


def join_holes(polygon: Polygon) -> np.ndarray:
    """Returns one ring [K, 2] that encloses a polygon without its holes, for formats that have no holes.

    It goes from the outer ring to each hole and back along the same line, which encloses nothing.
    """
    return _join_rings(polygon.outer, polygon.holes)


def join_parts(polygons: list[Polygon]) -> np.ndarray:
    """Returns one ring [K, 2] for all parts of an object, connected by lines that enclose nothing."""
    first, *others = [join_holes(polygon) for polygon in polygons]
    return _join_rings(first, others)


def _join_rings(ring: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """Inserts each further ring at the shortest connection between points, the nearest ring first."""
    remaining = list(others)
    while remaining:
        links = [_closest(ring, other) for other in remaining]
        nearest = min(range(len(links)), key=lambda index: links[index][0])
        _, at, start = links[nearest]
        other = np.roll(remaining.pop(nearest), -start, axis=0)
        ring = np.concatenate([ring[: at + 1], other, other[:1], ring[at:]])
    return ring


def _closest(ring: np.ndarray, other: np.ndarray) -> tuple[float, int, int]:
    """Returns the smallest squared distance between points of two rings, and their positions in the rings."""
    distances = np.square(ring[:, None] - other).sum(axis=-1)
    at, start = divmod(int(distances.argmin()), len(other))
    return float(distances[at, start]), at, start
