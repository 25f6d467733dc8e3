"""The motion and the mask of a tracked object, from frame to frame.

Positions are those of the box's centre and follow a Kalman filter with constant velocity. While less of an object is
seen than before, it is partly hidden: its track keeps its motion and its whole mask, and moves only as far as the
visible part demands.

Shapes: n detections of a frame, h x w window of a mask. Positions are x, y in pixels.
"""

from dataclasses import dataclass, replace

import numpy as np

WHOLE = 0.9
"""A mask with less than this share of the expected pixels is a visible part."""
SHRINKAGE = 0.97
"""Factor on the expected pixels for each frame with a visible part: after some frames, what is seen is the whole."""
MEASURED, ACCELERATION, FIRST_SPEED = 1 / 20, 1 / 160, 1 / 4
"""Standard deviations of the motion's Kalman filter as shares of the object's size: of a measured position and of the
change of speed from frame to frame (ByteTrack's), and of a new object's speed."""


@dataclass(frozen=True, eq=False)
class FrameObjects:
    """The detections of one frame as tracking needs them."""

    boxes: np.ndarray  # [n, 4] x0, y0, x1, y1 in pixels
    scores: np.ndarray  # [n]
    labels: np.ndarray  # [n] category ids
    windows: tuple[np.ndarray, ...]  # n masks, bool [h, w], each cut to a window
    origins: np.ndarray  # [n, 2] x, y of each window's first pixel, int64

    @property
    def areas(self) -> np.ndarray:
        """[n] pixels of the masks, int64."""
        return np.array([np.count_nonzero(window) for window in self.windows], np.int64)


@dataclass(frozen=True, eq=False)
class TrackMask:
    """A mask of a tracked object, which moves with it."""

    window: np.ndarray  # bool [h, w]
    offset: np.ndarray  # [2] from the object's position to the window's first pixel

    def origin(self, position: np.ndarray) -> np.ndarray:
        """Returns x, y of the window's first pixel, int64 [2]."""
        return np.round(position + self.offset).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Track:
    """An object at the time of the newest frame."""

    key: int  # unique, from the first frame on
    number: int  # 0 until the second frame
    label: int
    missed: int  # frames since the last detection
    position: np.ndarray  # [2]
    velocity: np.ndarray  # [2] pixels a frame
    covariance: np.ndarray  # [2, 2] of position and velocity, the same for x and y
    box_wh: np.ndarray  # [2] of the whole object
    whole: TrackMask  # the newest mask of the whole object
    seen: TrackMask  # the newest mask, which may be that of a part
    area: float  # expected pixels of the whole mask


def move_track(track: Track) -> Track:
    """Returns the track a frame later, at constant velocity."""
    step = np.array([[1.0, 1.0], [0.0, 1.0]])
    deviation = ACCELERATION * _size(track.box_wh)
    noise = deviation**2 * np.array([[0.25, 0.5], [0.5, 1.0]])
    covariance = step @ track.covariance @ step.T + noise
    return replace(track, position=track.position + track.velocity, covariance=covariance)


def start_track(key: int, objects: FrameObjects, index: int, area: int) -> Track:
    centre, box_wh = _centre(objects.boxes[index])
    covariance = np.diag([MEASURED, FIRST_SPEED]) ** 2 * _size(box_wh) ** 2
    mask = TrackMask(objects.windows[index], objects.origins[index] - centre)
    label = int(objects.labels[index])
    return Track(key, 0, label, 0, centre, np.zeros(2), covariance, box_wh, mask, mask, float(area))


def observe_track(track: Track, objects: FrameObjects, index: int, area: int) -> Track:
    """Returns the moved track corrected by its detection: by its position, or by the place that a part leaves to it."""
    centre, box_wh = _centre(objects.boxes[index])
    gain = track.covariance[:, 0] / (track.covariance[0, 0] + (MEASURED * _size(track.box_wh)) ** 2)
    expected = max(SHRINKAGE * track.area, float(area))
    if area >= WHOLE * expected:
        error = centre - track.position
        mask = TrackMask(objects.windows[index], objects.origins[index] - centre)
        return replace(
            track,
            missed=0,
            position=track.position + gain[0] * error,
            velocity=track.velocity + gain[1] * error,
            covariance=track.covariance - np.outer(gain, track.covariance[0]),
            box_wh=box_wh,
            whole=mask,
            seen=mask,
            area=expected,
        )
    # The whole box contains that of the part: it moves no farther than it must.
    slack = (track.box_wh - box_wh) / 2
    error = centre - track.position
    error = np.where(slack > 0, error - np.clip(error, -slack, slack), error)
    position = track.position + error
    return replace(
        track,
        missed=0,
        position=position,
        velocity=track.velocity + gain[1] * error,
        seen=TrackMask(objects.windows[index], objects.origins[index] - position),
        area=expected,
    )


def _centre(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the centre [2] and the width and height [2] of a box."""
    first, last = box[:2].astype(np.float64), box[2:].astype(np.float64)
    return (first + last) / 2, last - first


def _size(box_wh: np.ndarray) -> float:
    return float(np.sqrt(box_wh[0] * box_wh[1]))
