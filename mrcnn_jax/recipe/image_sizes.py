"""The sizes at which images enter the network: from the sizes of objects, and from those of the images."""

from typing import NamedTuple

import numpy as np

from mrcnn_jax.config import SIZE_DIVISOR, Canvas
from mrcnn_jax.data.box_facts import BoxFacts, box_sides
from mrcnn_jax.data.transforms import fit_size
from mrcnn_jax.recipe.canvas_choice import choose_canvases, resized_sizes, round_up

SMALL_SIDE, MEDIAN_SIDE = 8.0, 20.0
"""Sides in pixels, as the root of the box's area, that nine of ten objects and half of the objects should have."""
LEAST_SHORT_SIDE, MOST_SHORT_SIDE = 320, 800
MOST_ENLARGEMENT = 2.0
SMALL_OBJECTS = 48.0
"""Objects whose median side is less are tested on larger images, which costs no time in training."""
TEST_ENLARGEMENT = 4 / 3


class ImageSizes(NamedTuple):
    """Sizes of the network's input."""

    short_side: int
    max_side: int
    canvases: tuple[Canvas, ...]
    used: float
    """Share of the canvases' pixels that belong to images."""


def relative_sides(facts: BoxFacts) -> np.ndarray:
    """Returns the side of each object [K], the root of its box's area, as a share of its image's short side."""
    return np.sqrt(box_sides(facts.boxes).prod(axis=1)) / facts.image_hw.min(axis=1)[facts.image_index]


def needed_short_side(facts: BoxFacts) -> int:
    """Returns the short side, a multiple of 32, at which small and median objects have SMALL_SIDE and MEDIAN_SIDE.

    It is not less than LEAST_SHORT_SIDE, or the median image if that is smaller; and not more than MOST_SHORT_SIDE or
    MOST_ENLARGEMENT times the median image.
    """
    native = float(np.median(facts.image_hw.min(axis=1)))
    small, median = np.quantile(relative_sides(facts), [0.1, 0.5])
    wanted = max(SMALL_SIDE / small, MEDIAN_SIDE / median, min(native, LEAST_SHORT_SIDE))
    return round_up(min(wanted, MOST_SHORT_SIDE, MOST_ENLARGEMENT * native))


def choose_sizes(image_hw: np.ndarray, short_side: int, *, most_canvases: int, max_side: int = 0) -> ImageSizes:
    """Returns the bound on long sides and the canvases that use the largest share of their pixels.

    A bound below some long sides makes these images smaller, so that fewer or smaller canvases hold all images.
    `max_side` sets the bound, unless it is 0.
    """
    long_sides = resized_sizes(image_hw, short_side, 10 * short_side).max(axis=1)
    bounds = {round_up(max(float(np.quantile(long_sides, share)), short_side)) for share in (0.5, 0.75, 0.9, 0.98)}
    bounds = {max_side} if max_side else bounds
    found = [_sizes(image_hw, short_side, bound, most_canvases) for bound in sorted(bounds)]
    return max(found, key=lambda sizes: (round(sizes.used, 2), sizes.max_side))


def shares_of_canvases(image_hw: np.ndarray, sizes: ImageSizes) -> dict[Canvas, float]:
    """Returns the share of the images that each canvas holds; canvases without images are left out."""
    canvases = [_fit(hw, sizes)[1] for hw in image_hw.tolist()]
    return {canvas: canvases.count(canvas) / len(canvases) for canvas in sizes.canvases if canvas in canvases}


def smaller_short_sides(short_side: int) -> tuple[int, ...]:
    """Returns up to three short sides for training: this one and two that are smaller by a twelfth each."""
    steps = {round(short_side * share / 16) * 16 for share in (10 / 12, 11 / 12)}
    return (*sorted(side for side in steps if SIZE_DIVISOR < side < short_side), short_side)


def _sizes(image_hw: np.ndarray, short_side: int, max_side: int, most_canvases: int) -> ImageSizes:
    canvases = choose_canvases(resized_sizes(image_hw, short_side, max_side), most=most_canvases)
    sizes = ImageSizes(short_side, max_side, canvases, 0.0)
    fitted = [_fit(hw, sizes) for hw in image_hw.tolist()]
    used = sum(h * w for (h, w), _ in fitted) / sum(h * w for _, (h, w) in fitted)
    return sizes._replace(used=used)


def _fit(image_hw: list[int], sizes: ImageSizes) -> tuple[tuple[int, int], Canvas]:
    height, width = image_hw
    return fit_size((height, width), sizes.short_side, sizes.max_side, sizes.canvases)
