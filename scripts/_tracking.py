"""Counts identity switches of tracks in generated videos of crossing shapes, and prints them as JSON.

python scripts/_tracking.py [NUMBER_OF_VIDEOS]

Detections are the exact masks, or the masks with a tenth dropped at random and moved by up to two pixels. A switch is
an object that has another track than when it was last detected, unless it was not detected for longer than the memory.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import _checkout  # isort: skip
import numpy as np

from mrcnn_jax.data.moving_shapes import draw_moving_shapes
from mrcnn_jax.inference.track_motion import FrameObjects
from mrcnn_jax.inference.tracking import TrackSettings, follow

NUM_FRAMES, NUM_OBJECTS = 100, 8
MIN_PIXELS = 20
"""Objects with fewer visible pixels are hidden."""
SETTINGS = TrackSettings()
Detected = tuple[np.ndarray, FrameObjects]
"""The objects, as indices, and their detections."""


def detect(
    seed: int, *, label: int = 0, dropped: float = 0.0, jitter: int = 0, num_frames: int = NUM_FRAMES
) -> Iterator[Detected]:
    """Yields the detections of each frame, in random order."""
    rng = np.random.default_rng((seed, 2))
    for scene in draw_moving_shapes(num_frames, NUM_OBJECTS, seed=seed, label=label):
        visible = np.flatnonzero(scene.masks.sum((1, 2)) >= MIN_PIXELS)
        kept = rng.permutation(visible[rng.random(len(visible)) >= dropped])
        boxes, windows = np.zeros((len(kept), 4)), []
        for box, index in zip(boxes, kept, strict=True):
            rows, columns = np.flatnonzero(scene.masks[index].any(1)), np.flatnonzero(scene.masks[index].any(0))
            window = scene.masks[index][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            x0, y0 = np.array([columns[0], rows[0]]) + rng.integers(-jitter, jitter + 1, 2)
            box[:] = x0, y0, x0 + window.shape[1], y0 + window.shape[0]
            windows.append(window)
        origins = boxes[:, :2].astype(np.int64)
        yield kept, FrameObjects(boxes, np.full(len(kept), 0.9), scene.labels[kept], tuple(windows), origins)


def count(frames: Iterator[Detected], settings: TrackSettings = SETTINGS) -> dict[str, int]:
    """Returns the number of objects, tracks, detections, those without a track, occlusions, and identity switches."""
    last: dict[int, tuple[int, int]] = {}  # frame and track of each object's last detection with a track
    numbers: set[int] = set()
    counts = dict.fromkeys(("detections", "without_track", "gaps_within_memory", "longer_gaps", "switches"), 0)
    for frame, (objects, tracks) in enumerate(follow(((kept, found) for kept, found in frames), settings)):
        for index, number in zip(objects.tolist(), tracks.tolist(), strict=True):
            counts["detections"] += 1
            if not number:
                counts["without_track"] += 1
                continue
            numbers.add(number)
            before, known = last.get(index, (frame - 1, number))
            gap = frame - before - 1
            counts["gaps_within_memory"] += 0 < gap <= settings.memory
            counts["longer_gaps"] += gap > settings.memory
            counts["switches"] += known != number and gap <= settings.memory
            last[index] = frame, number
    return {"objects": len(last), "tracks": len(numbers), **counts}


def main() -> None:
    num_videos = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    cases: dict[str, dict[str, Any]] = {
        "exact, five classes": {},
        "exact, one class": {"label": 1},
        "dropped and moved, five classes": {"dropped": 0.1, "jitter": 2},
        "dropped and moved, one class": {"label": 1, "dropped": 0.1, "jitter": 2},
    }
    for name, options in cases.items():
        each = [count(detect(seed, **options)) for seed in range(num_videos)]
        total = {key: sum(counts[key] for counts in each) for key in each[0]}
        print(json.dumps({"detections_are": name, "videos": num_videos, **total}), flush=True)


if __name__ == "__main__":
    _checkout.run_main(main, __file__)
