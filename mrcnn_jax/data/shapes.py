"""Generated images of overlapping shapes with exact masks, for running everything without a data set.

An image is a pure function of (seed, stream, index). Its shapes differ in class, colour, texture, size, rotation and
stretch. Later shapes hide earlier ones, and a mask is the visible part of its shape.
Shapes: H, W image; N objects; h, w window around one object.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.data.source import Source, SourceImage

VERSION = 1
"""Part of the fingerprint; incremented when the images change."""

SHORT_SIDES = (128, 160)  # pixels, both included
MAX_SIDE = 192
_SUPERSAMPLING = 3  # odd, so that no coverage is exactly one half
_NUM_TRIES = 30


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) < 0.95


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    radius = np.hypot(u, v)
    return (radius > 0.5) & (radius < 1)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    angles = np.deg2rad([90, 210, 330])
    return np.all([u * np.cos(angle) + v * np.sin(angle) < 0.5 for angle in angles], axis=0)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns which points are inside a five-pointed star with tips at radius 1 and notches at radius 0.45."""
    step = np.pi / 5
    angle = np.arctan2(v, u) % (2 * step)
    angle = np.minimum(angle, 2 * step - angle)  # 0 at a tip, step at a notch
    notch = 0.45
    edge = notch * np.sin(step) / (np.sin(angle) * (1 - notch * np.cos(step)) + np.cos(angle) * notch * np.sin(step))
    return np.hypot(u, v) < edge


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    shorter, longer = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return (shorter < 0.3) & (longer < 0.95)


def _hoop(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    radius = np.hypot(u, v)
    return (radius > 0.76) & (radius < 1)


def _hook(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns which points are inside a hoop with a quarter missing."""
    return _hoop(u, v) & ((u < 0) | (np.abs(v) > np.abs(u)))


def _bars(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns which points are inside a cross with thin arms."""
    shorter, longer = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return (shorter < 0.13) & (longer < 0.95)


def _fork(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns which points are inside a thin bar with three thin teeth."""
    bar = (np.abs(u) < 0.85) & (v < -0.55) & (v > -0.8)
    teeth = np.any([np.abs(u - centre) < 0.13 for centre in (-0.72, 0.0, 0.72)], axis=0)
    return bar | (teeth & (v > -0.8) & (v < 0.75))


Outlines = dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]
"""Maps a class name to a function that tests which points (u, v) are inside an outline with a radius of about 1."""

OUTLINES: Outlines = {"disc": _disc, "ring": _ring, "triangle": _triangle, "star": _star, "cross": _cross}
THIN_OUTLINES: Outlines = {"star": _star, "hoop": _hoop, "hook": _hook, "bars": _bars, "fork": _fork}


@dataclass(frozen=True)
class Style:
    """Settings that make images easy or hard."""

    name: str
    outlines: Outlines
    max_objects: int
    radii: tuple[float, float]  # pixels
    min_visible: float  # share of a shape's pixels inside the image
    min_colour_distance: float  # RGB, between a shape and everything drawn before it

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes in the order of their outlines."""
        return tuple(Category(index, name) for index, name in enumerate(self.outlines, start=1))


EASY = Style("shapes", OUTLINES, max_objects=8, radii=(16.0, 38.0), min_visible=0.6, min_colour_distance=90.0)
HARD = Style(
    "thin shapes", THIN_OUTLINES, max_objects=10, radii=(16.0, 38.0), min_visible=0.4, min_colour_distance=60.0
)
"""Shapes with thin parts, two classes that differ only by a gap, more occlusion, and more similar colours."""


@dataclass(frozen=True)
class Scene:
    """One generated image."""

    image: np.ndarray  # [H, W, 3] uint8 RGB
    masks: np.ndarray  # [N, H, W] bool, disjoint
    labels: np.ndarray  # [N] int32, 1..5, position in the style's outlines


def _coverage(label: int, image_hw: ImageHW, rng: np.random.Generator, style: Style) -> np.ndarray:
    """Returns the share of each pixel that a random shape of this class covers, float32 [H, W]."""
    centre = rng.uniform(0.1, 0.9, 2) * image_hw
    radius, angle, stretch = rng.uniform(*style.radii), rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
    first = np.maximum(np.floor(centre - 1.1 * radius), 0).astype(int)
    last = np.minimum(np.ceil(centre + 1.1 * radius), image_hw).astype(int)
    height, width = last - first
    rows, columns = (
        first[axis] + (np.arange(side * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING - centre[axis]
        for axis, side in enumerate((height, width))
    )
    y, x = (rows / radius)[:, None], (columns / radius)[None, :]
    inside = list(style.outlines.values())[label - 1](
        x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) / stretch
    )  # [3 h, 3 w]
    samples = inside.view(np.uint8).reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING)
    covered = sum(samples[:, i, :, j] for i in range(_SUPERSAMPLING) for j in range(_SUPERSAMPLING))  # [h, w]
    coverage = np.zeros(image_hw, np.float32)
    coverage[first[0] : last[0], first[1] : last[1]] = covered / _SUPERSAMPLING**2
    return coverage


def _texture(image_hw: ImageHW, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Returns random brightness around 0, float32 [H, W]: stripes, a gradient, blobs or nothing, plus fine noise."""
    import cv2

    kind, angle = rng.integers(4), rng.uniform(0, np.pi)
    along = np.arange(image_hw[1])[None, :] * np.cos(angle) + np.arange(image_hw[0])[:, None] * np.sin(angle)
    if kind == 0:
        pattern = np.sign(np.sin(along * 2 * np.pi / rng.uniform(6, 12)))
    elif kind == 1:
        pattern = 2 * (along - along.min()) / (np.ptp(along) + 1e-6) - 1
    elif kind == 2:
        coarse = rng.uniform(-1, 1, (image_hw[0] // 12 + 2, image_hw[1] // 12 + 2))
        pattern = cv2.resize(coarse, (image_hw[1], image_hw[0]), interpolation=cv2.INTER_CUBIC)
    else:
        pattern = np.zeros(image_hw)
    return np.asarray(strength * pattern + rng.normal(0, 6, image_hw), np.float32)


def _pick_colour(rng: np.random.Generator, others: list[np.ndarray], min_distance: float) -> np.ndarray:
    """Returns a colour [3] that is far from the others, or the farthest one of many tries."""
    candidates = rng.uniform(30, 225, (_NUM_TRIES, 3))
    distances = np.min([np.linalg.norm(candidates - other, axis=1) for other in others], axis=0)
    far = np.flatnonzero(distances > min_distance)
    return candidates[far[0] if len(far) else np.argmax(distances)]


def _place(image_hw: ImageHW, rng: np.random.Generator, style: Style) -> tuple[list[np.ndarray], list[int]]:
    """Returns the coverages [H, W] and labels of 1 to `max_objects` sufficiently visible shapes, from back to front."""
    coverages: list[np.ndarray] = []
    labels: list[int] = []
    areas: list[int] = []  # of each mask without occlusion
    visible: list[np.ndarray] = []  # the visible part of each mask
    for _ in range(rng.integers(1, style.max_objects + 1)):
        for _ in range(_NUM_TRIES):
            label = int(rng.integers(1, len(style.outlines) + 1))
            coverage = _coverage(label, image_hw, rng, style)
            mask = coverage >= 0.5
            remaining = [other & ~mask for other in visible]
            pairs = zip(remaining, areas, strict=True)
            if all(np.count_nonzero(left) >= style.min_visible * area for left, area in pairs):
                visible, areas = [*remaining, mask], [*areas, int(np.count_nonzero(mask))]
                coverages.append(coverage)
                labels.append(label)
                break
    return coverages, labels


def draw_scene(seed: int, stream: int, index: int, style: Style = EASY) -> Scene:
    """Returns image `index` of a stream. The streams of a seed (0 for training, 1 for validation) are independent."""
    rng = np.random.default_rng((seed, stream, index))
    short = int(rng.integers(SHORT_SIDES[0], SHORT_SIDES[1] + 1))
    long = int(rng.integers(short, MAX_SIDE + 1))
    image_hw = (short, long) if rng.random() < 0.5 else (long, short)
    coverages, labels = _place(image_hw, rng, style)
    colours = [rng.uniform(30, 225, 3)]
    pixels = colours[0] + _texture(image_hw, rng, 25)[..., None]
    for coverage in coverages:
        colours.append(_pick_colour(rng, colours, style.min_colour_distance))
        texture = _texture(image_hw, rng, 30)
        window = np.ix_(coverage.any(1), coverage.any(0))
        below = pixels[window]
        pixels[window] = below + coverage[window][..., None] * (colours[-1] + texture[window][..., None] - below)
    owner = np.zeros(image_hw, np.int32)
    for position, coverage in enumerate(coverages, start=1):
        owner[coverage >= 0.5] = position
    masks = owner == np.arange(1, len(labels) + 1).reshape(-1, 1, 1)  # [N, H, W]
    return Scene(np.clip(pixels + 0.5, 0, 255).astype(np.uint8), masks, np.array(labels, np.int32))


def _annotate(mask: np.ndarray, label: int, annotation_id: int, image_id: int) -> dict:
    """Returns the COCO annotation of one mask [H, W]."""
    from pycocotools import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": label,
        "bbox": coco_mask.toBbox(code).tolist(),
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": code["counts"].decode()},
    }


def shapes_source(num_images: int, *, seed: int, stream: int, style: Style = EASY) -> Source:
    """Returns the first images of a stream, encoded as PNG, with their COCO annotations."""
    import cv2

    def load(index: int) -> SourceImage:
        scene = draw_scene(seed, stream, index, style)
        image_id = index + 1
        annotations = tuple(
            _annotate(mask, int(label), index * style.max_objects + position, image_id)
            for position, (mask, label) in enumerate(zip(scene.masks, scene.labels, strict=True), start=1)
        )
        _, encoded = cv2.imencode(".png", scene.image[..., ::-1])
        height, width = scene.image.shape[:2]
        return SourceImage(image_id, f"{image_id:06d}.png", encoded.tobytes(), (height, width), annotations)

    fingerprint = hashlib.sha256(f"{style.name} {VERSION} {seed} {stream} {num_images}".encode()).hexdigest()
    return Source(style.name, fingerprint, style.categories, num_images, load, lambda index: f"image {index + 1}")
