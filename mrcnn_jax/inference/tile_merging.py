"""One detection for each object that several tiles of an image have detected.

A detection that ends at a side of its tile inside the image is a fragment, since the tile may have cut the object
there. So is one that agrees, in the pixels that two tiles share (IoU of at least SAME), with a detection that goes on
beyond its tile. Any other one is whole. Two detections of one class in overlapping tiles are of the same object

- if both are whole and the IoU of their masks is at least AGREE;
- if one is a fragment of which the other, whole one covers at least AGREE;
- if both are fragments, and in the pixels that both tiles see, the IoU of their masks is at least AGREE, or one covers
  at least AGREE of the other.

Of whole detections the best one is kept. It replaces the others, and the fragments unless their score is more than
twice its own. Other fragments of an object are joined: their masks are united. A join is whole if other tiles show how
it goes on beyond every side that cut one of its parts.

Only detections that reach into pixels shared by two tiles are compared, and only with those of the other tile. Time is
therefore linear in the number of tiles if the detections of one tile are bounded, as by `TestConfig.max_detections`.

Shapes: n detections of all tiles, a and b of two tiles.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mrcnn_jax.data.tiles import TileGrid, Window
from mrcnn_jax.inference.fragment_joining import AGREE, cut_margins, join_fragments
from mrcnn_jax.inference.mask_crops import MaskCrop, intersect, part_of
from mrcnn_jax.inference.postprocessing import ImageDetections

SAME = 0.7
"""IoU in shared pixels from which a detection shows that another one is cut."""

BEYOND = 0.05
"""Share of a mask's pixels outside of a tile from which the object goes on beyond the tile."""

TRUST = 0.5
"""A whole detection replaces fragments of at most 1 / TRUST times its score."""

_CROPS_HELD = 512


@dataclass(frozen=True)
class Merged:
    """Detections of a whole image, and which of them may lack a part."""

    detections: ImageDetections
    is_fragment: np.ndarray
    """[n] bool: cut by a side of a tile beyond which no detection continues the object."""


def merge_tiles(found: ImageDetections, tile_of: np.ndarray, grid: TileGrid) -> Merged:
    """Returns one detection for each object, in the order of `found`.

    Args:
        found: the detections of all tiles, in pixels of the image.
        tile_of: [n] int, the tile of each detection.
        grid: the tiles.
    """
    cut = find_cut_sides(found.boxes, tile_of, grid)
    is_cut = np.asarray(cut.any(axis=1))
    agreeing: dict[int, list[int]] = {}
    for pair, cut_in_pair in _find_agreeing(found, tile_of, grid, is_cut.copy()):
        for index, other, index_is_cut in zip(pair, pair[::-1], cut_in_pair, strict=True):
            agreeing.setdefault(index, []).append(other)
            is_cut[index] |= index_is_cut
    is_kept = np.ones(len(found), bool)
    for index in np.argsort(-found.scores, kind="stable").tolist():
        if is_kept[index] and not is_cut[index]:
            others = np.array(agreeing.get(index, []), int)
            is_kept[others[~is_cut[others] | (TRUST * found.scores[others] <= found.scores[index])]] = False
    is_fragment = np.asarray(cut.any(axis=1))
    windows = [grid.windows[tile] for tile in tile_of.tolist()]
    joins: dict[int, ImageDetections] = {}
    for group in _connect(np.flatnonzero(is_kept & is_cut).tolist(), agreeing):
        if len(group) > 1:
            joins[group[0]], is_fragment[group[0]] = join_fragments(found, group, agreeing, cut, windows)
            is_kept[group[1:]] = False
    kept = np.flatnonzero(is_kept)
    return Merged(_replace_rows(found.select(kept), kept, joins), is_fragment[kept])


def find_cut_sides(boxes: np.ndarray, tile_of: np.ndarray, grid: TileGrid) -> np.ndarray:
    """Returns which sides y0, y1, x0, x1 of its tile may cut each detection, bool [n, 4]."""
    windows = np.array(grid.windows, np.float32)[tile_of]  # [n, 4]
    inner = np.array([grid.inner_sides(index) for index in range(len(grid))], bool)[tile_of]
    margin = cut_margins(windows)[:, None]
    y0, y1, x0, x1 = windows.T
    left, top, right, bottom = boxes.T
    distance = np.stack([top - y0, y1 - bottom, left - x0, x1 - right], axis=-1)
    return inner & (distance <= margin)


def _find_agreeing(
    found: ImageDetections, tile_of: np.ndarray, grid: TileGrid, is_cut: np.ndarray
) -> Iterator[tuple[tuple[int, int], tuple[bool, bool]]]:
    """Yields the pairs of detections in two tiles that are of the same object, and which of the two are fragments."""
    order = np.argsort(tile_of, kind="stable")
    bounds = np.searchsorted(tile_of[order], np.arange(len(grid) + 1))
    members = [order[first:last] for first, last in itertools.pairwise(bounds)]
    crop = functools.lru_cache(maxsize=_CROPS_HELD)(found.crop_or_box)
    areas = _Areas(crop, len(found))
    for one_tile, other_tile in grid.overlapping():
        tiles = grid.windows[one_tile], grid.windows[other_tile]
        shared = intersect(*tiles)
        ones, others = (_reaching(members[tile], found.boxes, shared) for tile in (one_tile, other_tile))
        for pair in _possible_pairs(found, ones, others, tiles, is_cut, areas):
            one, other = pair
            cut_in_pair = _compare((crop(one), crop(other)), areas.of(pair), tiles, (is_cut[one], is_cut[other]))
            if cut_in_pair is not None:
                yield pair, cut_in_pair


class _Areas:
    """The numbers of pixels of masks, each of which is counted once."""

    def __init__(self, crop: Callable[[int], MaskCrop], count: int) -> None:
        self._crop = crop
        self._areas = np.full(count, -1)

    def of(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        for index in indices:
            if self._areas[index] < 0:
                self._areas[index] = self._crop(int(index)).area
        return self._areas[indices if isinstance(indices, np.ndarray) else list(indices)]


def _reaching(indices: np.ndarray, boxes: np.ndarray, window: Window) -> np.ndarray:
    """Returns those of the detections whose boxes share pixels with a window."""
    y0, y1, x0, x1 = window
    left, top, right, bottom = boxes[indices].T
    return indices[(left < x1) & (right > x0) & (top < y1) & (bottom > y0)]


def _possible_pairs(
    found: ImageDetections,
    ones: np.ndarray,
    others: np.ndarray,
    tiles: tuple[Window, Window],
    is_cut: np.ndarray,
    areas: _Areas,
) -> list[tuple[int, int]]:
    """Returns the pairs of detections of one class whose boxes do not rule out that their masks agree."""
    boxes, other_boxes = found.boxes[ones, None], found.boxes[None, others]
    sides = np.minimum(boxes[..., 2:], other_boxes[..., 2:]) - np.maximum(boxes[..., :2], other_boxes[..., :2])
    common = np.ceil(np.maximum(sides, 0.0) + 1.0).prod(axis=-1) * (sides > 0).all(axis=-1)  # [a, b], at most so many
    common *= found.labels[ones, None] == found.labels[None, others]
    areas_of_ones, areas_of_others = areas.of(ones)[:, None], areas.of(others)[None]
    may_be_cut = is_cut[ones, None] | _is_beyond(other_boxes, tiles[0])
    other_may_be_cut = is_cut[None, others] | _is_beyond(boxes, tiles[1])
    needed = np.where(may_be_cut, areas_of_ones, np.maximum(areas_of_ones, areas_of_others))
    needed = np.where(other_may_be_cut, np.where(may_be_cut, 0, areas_of_others), needed)
    first, second = np.nonzero((common > 0) & (common >= AGREE * needed))
    return list(zip(ones[first].tolist(), others[second].tolist(), strict=True))


def _is_beyond(boxes: np.ndarray, tile: Window) -> np.ndarray:
    """Returns which boxes [..., 4] are not inside a tile."""
    y0, y1, x0, x1 = tile
    return np.asarray((boxes[..., :2] < [x0, y0]).any(axis=-1) | (boxes[..., 2:] > [x1, y1]).any(axis=-1))


def _compare(
    crops: tuple[MaskCrop, MaskCrop], areas: np.ndarray, tiles: tuple[Window, Window], are_cut: tuple[bool, bool]
) -> tuple[bool, bool] | None:
    """Returns which of two detections of different tiles are fragments; None if they are not of the same object."""
    place = intersect(crops[0].window, crops[1].window)
    common = np.count_nonzero(part_of(crops[0], place) & part_of(crops[1], place))
    if not common:
        return None
    shared = intersect(*tiles)
    seen = sum(_count_in(crop, shared) for crop in crops) - common
    if common >= SAME * seen:
        beyond = [
            area - _count_in(crop, tile) > BEYOND * area
            for crop, area, tile in zip(crops, areas, tiles[::-1], strict=True)
        ]
        are_cut = bool(are_cut[0] or beyond[1]), bool(are_cut[1] or beyond[0])
    if are_cut[0] and are_cut[1]:
        needed = min(seen, *areas)
    elif are_cut[0] or are_cut[1]:
        needed = areas[0] if are_cut[0] else areas[1]
    else:
        needed = areas.sum() - common
    return (bool(are_cut[0]), bool(are_cut[1])) if common >= AGREE * needed else None


def _count_in(crop: MaskCrop, window: Window) -> int:
    return int(np.count_nonzero(part_of(crop, intersect(crop.window, window))))


def _connect(indices: list[int], edges: dict[int, list[int]]) -> list[list[int]]:
    """Returns the connected groups of the indices, each in ascending order; edges to other indices do not count."""
    left = set(indices)
    groups = []
    for start in indices:
        if start not in left:
            continue
        left.remove(start)
        group, waiting = [], [start]
        while waiting:
            index = waiting.pop()
            group.append(index)
            for other in edges.get(index, ()):
                if other in left:
                    left.remove(other)
                    waiting.append(other)
        groups.append(sorted(group))
    return groups


def _replace_rows(found: ImageDetections, indices: np.ndarray, rows: dict[int, ImageDetections]) -> ImageDetections:
    """Returns the detections, of which row k was `indices[k]` before, with those in `rows` replaced."""
    if not rows:
        return found
    fields = {name: getattr(found, name).copy() for name in ("boxes", "scores", "mask_probabilities", "keypoints")}
    crops = list(found.crops or [None] * len(found))
    for place, index in enumerate(indices.tolist()):
        if index in rows:
            for name, column in fields.items():
                column[place] = getattr(rows[index], name)[0]
            crops[place] = (rows[index].crops or (None,))[0]
    return dataclasses.replace(found, **fields, crops=tuple(crops) if found.has_masks else None)
