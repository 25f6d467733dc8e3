"""Tracks: the same object has the same number in all frames of a video.

The rule is that of ByteTrack (arXiv 2110.06864): detections with high scores are assigned to tracks first, then those
with low scores to the tracks that are left, since a hidden object has a low score. Only high scores start a track.
There are two differences. The overlap is that of masks; boxes decide only about what the masks leave. And a track keeps
the whole mask and box of an object that is partly hidden (`track_motion`): a visible part matches by the share of its
box that lies in the whole one. So the first part that reappears has the object's number.

Shapes: n detections of a frame, t tracks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from mrcnn_jax.inference.track_motion import FrameObjects, Track, TrackMask, move_track, observe_track, start_track

T = TypeVar("T")

MIN_IOU = 0.2
"""Lowest mask IoU of a track and a detection with a high score; ByteTrack's."""
MIN_IOU_LOW = 0.5
"""The same for a low score; ByteTrack's."""
MIN_IOU_NEW = 0.3
"""The same for the second detection of a track; ByteTrack's."""
MIN_INSIDE = 0.7
"""Lowest share of the box of a visible part that lies in the box of its object."""
MIN_BOX_IOU = 0.3
"""Lowest IoU of the boxes where the masks do not match, as those of a thin object after a turn."""


@dataclass(frozen=True)
class TrackSettings:
    """When tracks start, continue and end."""

    score: float = 0.5
    """Lowest score of a high detection. Two high ones in successive frames start a track."""
    low_score: float = 0.1
    """Lowest score of a detection that continues a track."""
    memory: int = 30
    """Number of frames without a detection that a track outlives. An object that is hidden longer gets a new number."""


@dataclass(frozen=True)
class TrackerState:
    """What tracking knows after a frame."""

    tracks: tuple[Track, ...] = ()
    last_key: int = 0
    last_number: int = 0


def follow(frames: Iterable[tuple[T, FrameObjects]], settings: TrackSettings) -> Iterator[tuple[T, np.ndarray]]:
    """Yields each item with the track numbers of its detections, int64 [n]: 1, 2, ..., and 0 for those without a track.

    An item is yielded when the next frame has been seen, in which the tracks that it starts are confirmed or dropped.
    """
    state = TrackerState()
    waiting: tuple[T, np.ndarray, dict[int, int]] | None = None

    def number(keys: np.ndarray, numbers: dict[int, int]) -> np.ndarray:
        return np.array([numbers.get(key, 0) for key in keys.tolist()], np.int64)

    for item, objects in frames:
        state, keys = update(state, objects, settings)
        numbers = {track.key: track.number for track in state.tracks}
        if waiting is not None:
            yield waiting[0], number(waiting[1], waiting[2] | numbers)
        waiting = item, keys, numbers
    if waiting is not None:
        yield waiting[0], number(waiting[1], waiting[2])


def update(state: TrackerState, objects: FrameObjects, settings: TrackSettings) -> tuple[TrackerState, np.ndarray]:
    """Returns the state after one more frame, and the keys of the detections' tracks, int64 [n], 0 for no track.

    The result does not depend on the order of the detections.
    """
    areas = objects.areas
    moved = [move_track(track) for track in state.tracks]
    matches = _match(moved, objects, areas, settings)
    keys = np.zeros(len(objects.scores), np.int64)
    tracks: list[Track] = []
    number, key = state.last_number, state.last_key
    order = _canonical_order(objects, areas)
    rank = {index: place for place, index in enumerate(order)}
    for position in sorted(range(len(moved)), key=lambda place: rank.get(matches.get(place, -1), len(rank))):
        track, index = moved[position], matches.get(position)
        if index is not None:
            if not track.number:
                number += 1
                track = replace(track, number=number)
            tracks.append(observe_track(track, objects, index, int(areas[index])))
            keys[index] = track.key
        elif track.number and track.missed < settings.memory:
            tracks.append(replace(track, missed=track.missed + 1))
    for index in order:
        if not keys[index] and objects.scores[index] >= settings.score and areas[index]:
            key += 1
            keys[index] = key
            tracks.append(start_track(key, objects, index, int(areas[index])))
    return TrackerState(tuple(tracks), key, number), keys


def _canonical_order(objects: FrameObjects, areas: np.ndarray) -> list[int]:
    """Returns the indices of the detections, best and largest first, whatever order they have."""
    return np.lexsort((*objects.boxes.T, objects.labels, -areas, -objects.scores)).tolist()


def _match(tracks: list[Track], objects: FrameObjects, areas: np.ndarray, settings: TrackSettings) -> dict[int, int]:
    """Returns which detection continues which track, by index; round by round, each with what the others left."""
    order = np.array(_canonical_order(objects, areas), np.int64)
    iou = _mask_iou(tracks, objects, areas)  # [t, n]
    box_iou, inside = _box_overlaps(tracks, objects)
    high = objects.scores >= settings.score
    low = ~high & (objects.scores >= settings.low_score)
    known = np.array([track.number > 0 for track in tracks], bool)
    seen_last = known & np.array([track.missed == 0 for track in tracks], bool)
    rounds = (
        (known, high, iou, MIN_IOU),
        (seen_last, low, iou, MIN_IOU_LOW),
        (~known, high, iou, MIN_IOU_NEW),
        (known | ~known, high, box_iou, MIN_BOX_IOU),
        (known, high, inside, MIN_INSIDE),
        (seen_last, low, inside, MIN_INSIDE),
    )
    matches: dict[int, int] = {}
    for eligible, detections, similarity, lowest in rounds:
        rows = [row for row in np.flatnonzero(eligible).tolist() if row not in matches]
        columns = [column for column in order[detections[order]].tolist() if column not in matches.values()]
        for row, column in _assign(similarity[np.ix_(rows, columns)], lowest):
            matches[rows[row]] = columns[column]
    return matches


def _assign(similarity: np.ndarray, lowest: float) -> list[tuple[int, int]]:
    """Returns the pairs of rows and columns with the largest sum of similarities, each of at least `lowest`."""
    from scipy.optimize import linear_sum_assignment

    gains = np.where(similarity >= lowest, similarity, 0.0)
    rows, columns = linear_sum_assignment(gains, maximize=True)
    return [(row, column) for row, column in zip(rows.tolist(), columns.tolist(), strict=True) if gains[row, column]]


def _mask_iou(tracks: list[Track], objects: FrameObjects, areas: np.ndarray) -> np.ndarray:
    """Returns the IoU with the track's whole mask or with its newest one, the larger, float64 [t, n].

    It is 0 for different categories.
    """

    def iou(tracks: list[Track], masks: list[TrackMask]) -> np.ndarray:
        shared = _shared_pixels(tracks, masks, objects)
        sizes = np.array([np.count_nonzero(mask.window) for mask in masks], np.int64)
        return shared / np.maximum(sizes[:, None] + areas - shared, 1)

    result = iou(tracks, [track.whole for track in tracks])
    partial = [row for row, track in enumerate(tracks) if track.seen is not track.whole]
    seen = [tracks[row] for row in partial]
    result[partial] = np.maximum(result[partial], iou(seen, [track.seen for track in seen]))
    return result


def _shared_pixels(tracks: list[Track], masks: list[TrackMask], objects: FrameObjects) -> np.ndarray:
    """Returns the number of pixels that are in both masks, int64 [t, n]; 0 for different categories."""
    shared = np.zeros((len(tracks), len(objects.scores)), np.int64)
    if not shared.size:
        return shared
    pairs = zip(masks, tracks, strict=True)
    firsts = np.stack([mask.origin(track.position) for mask, track in pairs])[:, None]  # [t, 1, 2]
    lasts = firsts + np.array([mask.window.shape[::-1] for mask in masks])[:, None]
    ends = objects.origins + np.array([window.shape[::-1] for window in objects.windows])  # [n, 2]
    starts, stops = np.maximum(firsts, objects.origins), np.minimum(lasts, ends)  # [t, n, 2]
    labels = np.array([track.label for track in tracks])
    possible = (starts < stops).all(-1) & (labels[:, None] == objects.labels)
    for row, column in np.argwhere(possible).tolist():
        cuts = []
        for window, origin in (
            (masks[row].window, firsts[row, 0]),
            (objects.windows[column], objects.origins[column]),
        ):
            (x0, y0), (x1, y1) = starts[row, column] - origin, stops[row, column] - origin
            cuts.append(window[y0:y1, x0:x1])
        shared[row, column] = np.count_nonzero(cuts[0] & cuts[1])
    return shared


def _box_overlaps(tracks: list[Track], objects: FrameObjects) -> tuple[np.ndarray, np.ndarray]:
    """Returns the IoU of the boxes and the share of the detection's box in that of the track, each float64 [t, n].

    For the share, boxes of tracks grow by the uncertainty of their position. Both are 0 for different categories.
    """
    centres = np.array([track.position for track in tracks]).reshape(-1, 1, 2)
    halves = np.array([track.box_wh for track in tracks]).reshape(-1, 1, 2) / 2
    deviations = np.array([track.covariance[0, 0] ** 0.5 for track in tracks]).reshape(-1, 1, 1)
    firsts, lasts = objects.boxes[:, :2].astype(np.float64), objects.boxes[:, 2:].astype(np.float64)
    sizes = np.maximum((lasts - firsts).prod(-1), 1e-9)
    same = np.array([track.label for track in tracks], np.int64)[:, None] == objects.labels

    def shared(halves: np.ndarray) -> np.ndarray:
        return np.maximum(np.minimum(centres + halves, lasts) - np.maximum(centres - halves, firsts), 0).prod(-1)

    common = shared(halves)
    iou = common / ((2 * halves).prod(-1) + sizes - common)
    return np.where(same, iou, 0.0), np.where(same, shared(halves + deviations) / sizes, 0.0)
