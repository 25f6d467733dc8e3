"""Tracks of hand-made scenes: crossings, occlusions, low scores, births and deaths, and the order of detections."""

import dataclasses
from collections.abc import Iterable, Sequence

import _tracking
import numpy as np
import pytest

from mrcnn_jax.inference import tracking
from mrcnn_jax.inference.track_motion import FrameObjects, Track
from mrcnn_jax.inference.tracking import TrackerState, TrackSettings, follow, update

SIDE = 20
SETTINGS = TrackSettings(score=0.5, low_score=0.1, memory=5)
Square = tuple[float, float] | tuple[float, float, float] | tuple[float, float, float, int]
"""x0, y0 of a square of SIDE pixels, its score (0.9) and label (1)."""


def cut(mask: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A mask [H, W] cut to its box, and the box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return mask[y0:y1, x0:x1], (x0, y0, x1, y1)


def from_masks(masks: Sequence[np.ndarray], scores: Sequence[float], labels: Sequence[int]) -> FrameObjects:
    cuts = [cut(mask) for mask in masks]
    boxes = np.array([box for _, box in cuts], np.float32).reshape(-1, 4)
    windows = tuple(window for window, _ in cuts)
    return FrameObjects(boxes, np.array(scores), np.array(labels, int), windows, boxes[:, :2].astype(int))


def squares(*objects: Square) -> FrameObjects:
    rows = [(*given, *(0.9, 1)[len(given) - 2 :]) for given in objects]
    origins = np.array([row[:2] for row in rows], int).reshape(-1, 2)
    boxes = np.concatenate([origins, origins + SIDE], axis=1).astype(np.float32)
    windows = (np.ones((SIDE, SIDE), bool),) * len(rows)
    return FrameObjects(boxes, np.array([row[2] for row in rows]), np.array([row[3] for row in rows]), windows, origins)


def numbers(frames: Iterable[FrameObjects], settings: TrackSettings = SETTINGS) -> list[list[int]]:
    frames = list(frames)
    followed = list(follow(enumerate(frames), settings))
    assert [index for index, _ in followed] == list(range(len(frames)))
    return [found.tolist() for _, found in followed]


def test_a_moving_object_has_one_number_from_its_first_frame_on() -> None:
    assert numbers(squares((10 + 6 * frame, 30)) for frame in range(8)) == [[1]] * 8


def test_empty_frames_and_empty_videos_have_no_tracks() -> None:
    assert numbers([]) == []
    assert numbers([squares()] * 3) == [[]] * 3
    frames = [squares(), squares((5, 5)), squares((5, 5)), squares(), squares((5, 5))]
    assert numbers(frames) == [[], [1], [1], [], [1]]


def test_an_object_is_confirmed_in_its_second_frame() -> None:
    blip = [squares((5, 5), (60, 60)), squares((5, 5)), squares((5, 5), (60, 60)), squares((5, 5), (60, 60))]
    assert numbers(blip) == [[1, 0], [1], [1, 2], [1, 2]]  # seen in one frame alone: no number
    assert numbers([squares((5, 5))]) == [[0]]


def test_only_high_scores_start_a_track_and_low_ones_continue_it() -> None:
    dip = [0.9, 0.9, 0.2, 0.2, 0.2, 0.9]
    assert numbers(squares((5 + 4 * k, 5, score)) for k, score in enumerate(dip)) == [[1]] * 6
    assert numbers(squares((5 + 4 * k, 5, 0.45)) for k in range(6)) == [[0]] * 6
    too_low = [squares((5, 5, score)) for score in (0.9, 0.9, 0.05, 0.9)]
    assert numbers(too_low) == [[1], [1], [0], [1]]  # the memory bridges it
    first_low = [squares((5, 5, score)) for score in (0.2, 0.9, 0.9)]
    assert numbers(first_low) == [[0], [1], [1]]


def test_a_low_score_does_not_revive_a_lost_track() -> None:
    frames = [squares((5, 5)), squares((5, 5)), squares(), squares((5, 5, 0.3)), squares((5, 5))]
    assert numbers(frames) == [[1], [1], [], [0], [1]]


def test_a_low_score_continues_a_track_by_iou_or_as_a_part() -> None:
    """After a square: 30 x 20 (IoU and share 0.67), 8 x 20 (IoU 0.4, share 1), and 50 x 20, which fits neither."""
    for width, expected in ((30, [1]), (8, [1]), (50, [0])):
        mask = np.zeros((60, 80), bool)
        mask[10:30, 10 : 10 + width] = True
        assert numbers([squares((10, 10))] * 3 + [from_masks([mask], [0.3], [1])])[3] == expected


def test_high_scores_are_matched_before_low_ones() -> None:
    """The low detection overlaps the track more, but the high one is assigned first."""
    frames = [squares((10, 10)), squares((10, 10)), squares((10, 10, 0.4), (16, 10, 0.6))]
    assert numbers(frames)[2] == [0, 1]


@pytest.mark.parametrize("speed", [0, 3])
@pytest.mark.parametrize(("hidden", "known"), [(1, True), (5, True), (6, False), (20, False)])
def test_an_occlusion_up_to_the_memory_keeps_the_number(speed: int, hidden: int, known: bool) -> None:
    seen = [squares((10 + speed * frame, 30)) for frame in range(hidden + 10)]
    seen[5 : 5 + hidden] = [squares()] * hidden
    expected = [[1]] * 5 + [[]] * hidden + [[1 if known else 2]] * 5
    assert numbers(seen) == expected


def crossing(speed: int, label_behind: int = 1) -> list[FrameObjects]:
    """Two squares that meet: the one in front goes to the right, the other one, two pixels lower, to the left."""
    frames = []
    for frame in range(90 // speed):
        front, behind = np.zeros((80, 160), bool), np.zeros((80, 160), bool)
        front[20 : 20 + SIDE, 20 + speed * frame : 20 + SIDE + speed * frame] = True
        behind[22 : 20 + SIDE, 120 - speed * frame : 120 + SIDE - speed * frame] = True
        visible = [(front, 1), (behind & ~front, label_behind)]
        visible = [(mask, label) for mask, label in visible if mask.any()]
        frames.append(from_masks([mask for mask, _ in visible], [0.9] * len(visible), [row[1] for row in visible]))
    return frames


@pytest.mark.parametrize("speed", [1, 2, 5])
@pytest.mark.parametrize("label_behind", [1, 2])
def test_crossing_objects_keep_their_numbers(speed: int, label_behind: int) -> None:
    frames = crossing(speed, label_behind)
    assert any(len(frame.scores) == 1 for frame in frames), "hidden at times"
    assert all(found == [1, 2][: len(found)] for found in numbers(frames))


def test_an_object_that_comes_out_from_behind_a_wall_keeps_its_number() -> None:
    """It disappears and reappears column by column: its first visible part is two columns wide."""
    frames = []
    for frame in range(60):
        mask = np.zeros((60, 200), bool)
        mask[20:40, 10 + 2 * frame : 30 + 2 * frame] = True
        mask[:, 60:90] = False
        frames.append(from_masks([mask] if mask.any() else [], [0.9][: mask.sum()], [1][: mask.sum()]))
    assert sum(len(frame.scores) == 0 for frame in frames) == 6
    found = numbers(frames, dataclasses.replace(SETTINGS, memory=6))
    assert found == [[1] * len(frame.scores) for frame in frames]
    assert max(max(row, default=0) for row in numbers(frames, SETTINGS)) == 2


def test_a_thin_object_that_turns_keeps_its_number() -> None:
    """The masks before and after the turn are disjoint, the boxes are not."""
    ring = np.ones((24, 24), bool)
    ring[2:-2, 2:-2] = False
    frames = []
    for x in (10, 13, 16, 19, 16, 13, 10):
        mask = np.zeros((60, 60), bool)
        mask[x : x + 24, x : x + 24] = ring
        frames.append(from_masks([mask], [0.9], [1]))
    assert numbers(frames) == [[1]] * 7


def test_tracks_have_one_category() -> None:
    frames = [squares((5, 5, 0.9, label)) for label in (1, 1, 2, 2, 1)]
    assert numbers(frames) == [[1], [1], [2], [2], [1]]


def test_an_object_that_shrinks_for_good_is_followed() -> None:
    frames = [squares((10, 10))] * 3
    half = np.zeros((60, 60), bool)
    half[10:30, 10:18] = True
    frames += [from_masks([half], [0.9], [1])] * 60
    assert numbers(frames) == [[1]] * 63


def test_empty_masks_start_no_track() -> None:
    nothing = FrameObjects(
        np.array([[5, 5, 9, 9.0]]), np.array([0.9]), np.array([1]), (np.zeros((4, 4), bool),), np.array([[5, 5]])
    )
    assert numbers([nothing] * 3) == [[0]] * 3


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_detections_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = [found for _, found in _tracking.detect(seed, dropped=0.2, jitter=3, num_frames=30)]
    frames = [dataclasses.replace(frame, scores=rng.choice([0.3, 0.8], len(frame.scores))) for frame in frames]
    orders = [rng.permutation(len(frame.scores)) for frame in frames]
    shuffled = [
        FrameObjects(
            frame.boxes[order],
            frame.scores[order],
            frame.labels[order],
            tuple(frame.windows[index] for index in order),
            frame.origins[order],
        )
        for frame, order in zip(frames, orders, strict=True)
    ]
    found = numbers(frames)
    assert max(max(row, default=0) for row in found) >= 5
    assert numbers(shuffled) == [np.array(row)[order].tolist() for row, order in zip(found, orders, strict=True)]


def test_the_assignment_has_the_largest_sum_above_the_limit() -> None:
    similarity = np.array([[0.6, 0.5], [0.5, 0.0]])
    assert tracking._assign(similarity, 0.3) == [(0, 1), (1, 0)]  # greedily, the second row would get nothing
    assert tracking._assign(similarity, 0.55) == [(0, 0)]
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert tracking._assign(np.zeros(shape), 0.3) == []


def test_shared_pixels_are_those_of_whole_masks() -> None:
    rng = np.random.default_rng(0)
    found = [from_masks(rng.random((6, 40, 50)) < rng.choice([0.001, 0.02, 0.5], (6, 1, 1)), [0.9] * 6, [1] * 6)] * 2
    state, _ = update(TrackerState(), found[0], SETTINGS)
    shifted = []
    for track in state.tracks:
        shifted.append(dataclasses.replace(track, position=track.position + rng.integers(-20, 20, 2)))
    shared = tracking._shared_pixels(shifted, [track.whole for track in shifted], found[1])

    def whole(window: np.ndarray, origin: np.ndarray) -> np.ndarray:
        canvas = np.zeros((140, 150), bool)
        x, y = origin + 40
        canvas[y : y + window.shape[0], x : x + window.shape[1]] = window
        return canvas

    firsts = [whole(track.whole.window, track.whole.origin(track.position)) for track in shifted]
    seconds = [whole(*pair) for pair in zip(found[1].windows, found[1].origins, strict=True)]
    np.testing.assert_array_equal(shared, [[(a & b).sum() for b in seconds] for a in firsts])
    assert shared.any() and not shared.all()


def test_motion_converges_to_the_speed_of_the_object() -> None:
    state = TrackerState()
    for frame in range(25):
        state, _ = update(state, squares((10 + 3 * frame, 100 - 2 * frame)), SETTINGS)
    (track,) = state.tracks
    assert isinstance(track, Track)
    np.testing.assert_allclose(track.velocity, [3, -2], atol=0.05)
    np.testing.assert_allclose(track.position, [10 + 72 + SIDE / 2, 100 - 48 + SIDE / 2], atol=0.1)


@pytest.mark.parametrize("options", [{}, {"dropped": 0.1, "jitter": 2}])
def test_objects_of_generated_videos_rarely_change_their_numbers(options: dict) -> None:
    """Eight objects in a hundred frames. `python scripts/_tracking.py` counts over more videos."""
    counts = _tracking.count(_tracking.detect(0, **options))
    assert counts["objects"] == 8 and counts["detections"] > 600
    assert counts["switches"] <= 1 and counts["tracks"] <= 9
