"""Polygons whose corners are listed out of order, so that their outline crosses itself."""

import numpy as np

_FITS = 0.05  # relative error of an area that proves an order
_CROSSED = 0.7  # share of the area that a crossed outline covers at most
_MAX_CORNERS = 200


def reorder_corners(polygon: list[float], area: float) -> list[float] | None:
    """Returns the corners of a self-crossing polygon in the order of their convex hull, if the area proves it.

    It does if it is that of the hull, and the outline as given covers much less.
    """
    import cv2

    points = np.asarray(polygon, np.float32).reshape(-1, 2)
    if not 4 <= len(points) <= _MAX_CORNERS:
        return None
    x, y = points.T
    covered = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    hull = cv2.convexHull(points)[:, 0]
    is_proved = abs(cv2.contourArea(hull) - area) <= _FITS * area and covered < _CROSSED * area
    return hull.ravel().tolist() if is_proved and _crosses_itself(points.astype(np.float64)) else None


def _crosses_itself(points: np.ndarray) -> bool:
    """Returns whether two edges of the closed outline of points [N, 2] cross inside both."""
    starts, ends = points, np.roll(points, -1, axis=0)

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        first, second = q - p, r - p
        return np.sign(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])

    a, b, c, d = starts[:, None], ends[:, None], starts[None], ends[None]
    crosses = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return bool(crosses.any())
