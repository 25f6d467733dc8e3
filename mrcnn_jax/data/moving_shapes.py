"""Generated videos of shapes that cross, with exact masks and identities, for measuring tracks.

A video is a pure function of its seed. Shapes move at constant velocity, rotate, and bounce off the border. Later
shapes hide earlier ones; a mask is the visible part of its shape, and may be empty.
Shapes: H, W image; N objects.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.shapes import OUTLINES

RADII = (14.0, 26.0)  # pixels
SPEEDS = (1.0, 4.0)  # pixels a frame
TURNS = 0.03  # radians a frame, at most


@dataclass(frozen=True)
class MovingScene:
    """One frame of a generated video. Object k is the same one in all frames."""

    image: np.ndarray  # [H, W, 3] uint8 RGB
    masks: np.ndarray  # [N, H, W] bool, disjoint
    labels: np.ndarray  # [N] int64, 1..5, position in OUTLINES
    colours: np.ndarray  # [N, 3] uint8 RGB, different for each object


def draw_moving_shapes(
    num_frames: int, num_objects: int, *, seed: int, image_hw: ImageHW = (192, 256), label: int = 0
) -> Iterator[MovingScene]:
    """Yields the frames of a video. All objects are of class `label`, 1..5; for 0, each is of a random class."""
    rng = np.random.default_rng((seed, 1903))
    height, width = image_hw
    radii = rng.uniform(*RADII, num_objects)
    lows, highs = radii[:, None], np.array([width, height]) - radii[:, None]
    starts = rng.uniform(lows, highs)  # [N, 2] x, y
    headings, speeds = rng.uniform(0, 2 * np.pi, num_objects), rng.uniform(*SPEEDS, num_objects)
    velocities = speeds[:, None] * np.stack([np.cos(headings), np.sin(headings)], axis=-1)
    angles, turns = rng.uniform(0, 2 * np.pi, num_objects), rng.uniform(-TURNS, TURNS, num_objects)
    labels = np.full(num_objects, label) if label else rng.integers(1, len(OUTLINES) + 1, num_objects)
    hues = np.arange(num_objects)[:, None] / num_objects + np.array([0, 2, 1]) / 3  # of red, green and blue
    colours = np.clip(255 * (6 * np.abs(hues % 1 - 0.5) - 1), 0, 255).astype(np.uint8)
    outlines = list(OUTLINES.values())
    background = rng.integers(20, 50, (height, width, 3)).astype(np.uint8)
    for frame in range(num_frames):
        centres = _bounce(starts + frame * velocities, lows, highs)
        owner = np.full(image_hw, -1)
        image = background.copy()
        for index, (cx, cy) in enumerate(centres):
            angle = angles[index] + frame * turns[index]
            first = np.floor([cy - radii[index], cx - radii[index]]).astype(int)
            last = np.ceil([cy + radii[index], cx + radii[index]]).astype(int)
            y, x = np.mgrid[first[0] : last[0], first[1] : last[1]] + 0.5
            u, v = (x - cx) / radii[index], (y - cy) / radii[index]
            inside = outlines[labels[index] - 1](
                u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
            )
            window = slice(first[0], last[0]), slice(first[1], last[1])
            owner[window][inside] = index
            image[window][inside] = colours[index]
        masks = owner == np.arange(num_objects)[:, None, None]
        yield MovingScene(image, masks, labels.astype(np.int64), colours)


def _bounce(positions: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
    """Returns positions that move to and fro between the bounds."""
    span = highs - lows
    phase = (positions - lows) % (2 * span)
    return lows + np.minimum(phase, 2 * span - phase)
