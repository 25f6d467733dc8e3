"""The tiles of an image: overlapping windows of one size that together cover every pixel.

An object whose sides are at most the overlap lies inside at least one tile as a whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.integers import ceil_div

Interval = tuple[int, int]
"""First pixel of a part of an axis and the one after its last."""

Window = tuple[int, int, int, int]
"""Rows y0 to y1 and columns x0 to x1 of an image, half-open: (y0, y1, x0, x1)."""


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one image, row by row."""

    rows: tuple[Interval, ...]
    columns: tuple[Interval, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @cached_property
    def windows(self) -> list[Window]:
        """The window of each tile."""
        return [(*row, *column) for row in self.rows for column in self.columns]

    @property
    def image_hw(self) -> ImageHW:
        """Size of the image."""
        return self.rows[-1][1], self.columns[-1][1]

    def inner_sides(self, index: int) -> tuple[bool, bool, bool, bool]:
        """Returns which of a tile's sides y0, y1, x0, x1 lie inside the image and thus may cut objects."""
        y0, y1, x0, x1 = self.windows[index]
        height, width = self.image_hw
        return y0 > 0, y1 < height, x0 > 0, x1 < width

    def overlapping(self) -> Iterator[tuple[int, int]]:
        """Yields each pair of tiles (i, j), i < j, that share pixels; their number is proportional to that of tiles."""
        above, beside = _overlapping(self.rows), _overlapping(self.columns)
        count = len(self.columns)
        for first_row, second_row in above:
            for first, second in beside:
                one, other = first_row * count + first, second_row * count + second
                if one < other:
                    yield one, other
                if first != second and first_row != second_row:  # the other diagonal
                    yield first_row * count + second, second_row * count + first


def plan_tiles(image_hw: ImageHW, tile: int, overlap: int) -> TileGrid:
    """Returns the fewest tiles of side `tile` that overlap by at least `overlap` pixels and cover the image.

    Along each axis they are spread evenly, so that the overlaps differ by at most one pixel and no pair of tiles shares
    much more than is needed. Along an axis that is shorter than a tile, tiles are as long as the image.
    """
    check_tiling(tile, overlap)
    rows, columns = (plan_intervals(side, tile, overlap) for side in image_hw)
    return TileGrid(rows, columns)


def plan_intervals(length: int, tile: int, overlap: int) -> tuple[Interval, ...]:
    """Returns the tiles along one axis."""
    if length <= tile:
        return ((0, length),)
    steps = ceil_div(length - tile, tile - overlap)
    starts = [step * (length - tile) // steps for step in range(steps + 1)]
    return tuple((start, start + tile) for start in starts)


def check_tiling(tile: int, overlap: int) -> None:
    """Raises ConfigError unless tiles have an extent and overlap by at most half of it."""
    if tile < 1:
        raise ConfigError(f"tile: expected 1 or more pixels, got {tile}.")
    if not 0 <= overlap <= tile // 2:
        raise ConfigError(f"overlap: expected 0 to {tile // 2}, half of the tile of {tile} pixels, got {overlap}.")


def _overlapping(intervals: tuple[Interval, ...]) -> list[tuple[int, int]]:
    """Returns the pairs (i, j), i <= j, of intervals, in ascending order, that share pixels; i = j included."""
    pairs = []
    for i, (_, stop) in enumerate(intervals):
        for j in range(i, len(intervals)):
            if intervals[j][0] >= stop:
                break
            pairs.append((i, j))
    return pairs
