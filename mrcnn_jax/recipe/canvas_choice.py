"""Canvases that waste little: images sorted by aspect ratio are divided into groups, each with the smallest canvas."""

import itertools
from collections.abc import Sequence

import numpy as np

from mrcnn_jax.config import SIZE_DIVISOR, Canvas
from mrcnn_jax.data.transforms import fit_size

MAX_CANVASES = 3
WORTH_A_CANVAS = 0.1
"""Least share of pixels that a further canvas saves: each one is compiled for itself, in minutes on a CPU."""
_MAX_FORMS = 64


def round_up(side: float) -> int:
    """Returns the smallest multiple of SIZE_DIVISOR that is at least `side`."""
    return max(1, -(-int(np.ceil(side)) // SIZE_DIVISOR)) * SIZE_DIVISOR


def choose_canvases(sizes: np.ndarray, *, most: int = MAX_CANVASES) -> tuple[Canvas, ...]:
    """Returns 1 to `most` canvases that hold images of the resized `sizes` [N, 2] with the least padding.

    A further canvas has to save WORTH_A_CANVAS of the pixels. Raises ValueError without images.
    """
    if not len(sizes):
        raise ValueError("Expected at least one image, got none.")
    forms, counts = _forms(sizes)
    best = _partition(forms, counts, 1)
    for count in range(2, min(most, len(forms)) + 1):
        more = _partition(forms, counts, count)
        if _padded(forms, counts, more) <= (1 - WORTH_A_CANVAS) * _padded(forms, counts, best):
            best = more
    return best


def resized_sizes(image_hw: np.ndarray, short_side: int, max_side: int) -> np.ndarray:
    """Returns the sizes [N, 2] of images [N, 2] resized to the short side, with long sides up to max_side."""
    whole = ((max_side, max_side),)
    return np.array([fit_size((h, w), short_side, max_side, whole)[0] for h, w in image_hw.tolist()]).reshape(-1, 2)


def _forms(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct sizes [F, 2] in multiples of SIZE_DIVISOR by aspect ratio, and the images of each [F]."""
    divisor = SIZE_DIVISOR
    while True:
        forms, counts = np.unique(-(-np.asarray(sizes) // divisor) * divisor, axis=0, return_counts=True)
        if len(forms) <= _MAX_FORMS:
            break
        divisor *= 2  # coarser forms keep the partition fast
    order = np.argsort(forms[:, 0] / forms[:, 1], kind="stable")
    return forms[order], counts[order]


def _partition(forms: np.ndarray, counts: np.ndarray, num_groups: int) -> tuple[Canvas, ...]:
    """Returns the canvases of the division into consecutive groups that has the fewest padded pixels."""
    num_forms = len(forms)
    costs = np.full((num_forms, num_forms + 1), np.inf)  # of the group [first, end)
    for first in range(num_forms):
        for end in range(first + 1, num_forms + 1):
            costs[first, end] = float(np.prod(forms[first:end].max(axis=0))) * counts[first:end].sum()
    table: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}  # end of the last group: cost, starts of groups
    for _ in range(num_groups):
        table = {
            end: min(
                (cost + costs[first, end], (*starts, first)) for first, (cost, starts) in table.items() if first < end
            )
            for end in range(1, num_forms + 1)
            if any(first < end for first in table)
        }
    starts = (*table[num_forms][1], num_forms)
    groups = [forms[a:b].max(axis=0) for a, b in itertools.pairwise(starts)]
    return tuple((int(h), int(w)) for h, w in groups)


def _padded(forms: np.ndarray, counts: np.ndarray, canvases: Sequence[Canvas]) -> float:
    """Returns the pixels of all images with their padding."""
    total = 0.0
    for (height, width), count in zip(forms.tolist(), counts.tolist(), strict=True):
        total += count * min(h * w for h, w in canvases if h >= height and w >= width)
    return total
