"""Copies are found whatever was done to them, and different images are not, even where all are dark."""

import hashlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from mrcnn_jax.inspection.copy_checks import group_identical
from mrcnn_jax.inspection.image_facts import ImageFacts, make_thumbnail
from mrcnn_jax.inspection.object_facts import measure_objects
from mrcnn_jax.inspection.similar_images import find_similar, turn_thumbnails


def facts(grey: np.ndarray) -> ImageFacts:
    hw = (grey.shape[0], grey.shape[1])
    digest = hashlib.blake2b(np.ascontiguousarray(grey), digest_size=16).digest()
    contrast = float(grey.std())
    return ImageFacts(
        0, "", hw, measure_objects((), hw), contrast=contrast, digest=digest, thumbnail=make_thumbnail(grey)
    )


def cells(seed: int, hw: tuple[int, int] = (192, 224), glow: float = 5.0) -> np.ndarray:
    """A dark microscope image that is brighter in the middle, as all of one instrument are: uint8 [H, W]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: hw[0], : hw[1]]
    image = 3 + glow * np.exp(-((y - hw[0] / 2) ** 2 + (x - hw[1] / 2) ** 2) / (2 * 70**2))
    for _ in range(25):
        cy, cx, radius = rng.uniform(0, hw[0]), rng.uniform(0, hw[1]), rng.uniform(4, 9)
        image += rng.uniform(6, 18) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * radius**2))
    return np.clip(image + rng.normal(0, 1, hw), 0, 255).astype(np.uint8)


def jpeg(grey: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda grey: grey,
    "compressed": lambda grey: jpeg(grey, 40),
    "half the size": lambda grey: cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "twice as bright": lambda grey: np.clip(grey.astype(int) * 2 + 9, 0, 255).astype(np.uint8),
    "mirrored": lambda grey: grey[:, ::-1],
    "turned": lambda grey: np.rot90(grey),
    "upside down and mirrored": lambda grey: np.rot90(grey, 3)[:, ::-1],
    "smaller, turned and compressed": lambda grey: jpeg(np.rot90(cv2.resize(grey, None, fx=0.7, fy=0.7), 2).copy(), 60),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change: str) -> None:
    originals = [cells(seed) for seed in range(12)]
    copy = np.ascontiguousarray(CHANGES[change](originals[5]))
    assert find_similar([facts(grey) for grey in [*originals, copy]]) == [[5, 12]]


def test_different_dark_images_are_different() -> None:
    images = [facts(cells(seed)) for seed in range(60)]
    assert find_similar(images) == []
    # All correlate coarsely, since the light of the middle is stronger than the cells.
    glowing = [cells(seed, glow=90.0) for seed in range(20)]
    assert (
        np.corrcoef([cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA).ravel() for grey in glowing]).min() > 0.9
    )
    assert find_similar([facts(grey) for grey in [*glowing, glowing[3][::-1].copy()]]) == [[3, 20]]
    plain = [facts(np.full((64, 64), value, np.uint8)) for value in (0, 0, 9)]
    assert find_similar(plain) == [] and group_identical(plain) == []
    assert find_similar([]) == [] and find_similar(images[:1]) == []


def test_copies_of_copies_are_one_group() -> None:
    a, b = cells(1), cells(2)
    images = [a, b, a[:, ::-1], cells(3), b[::-1], jpeg(a, 50), a]
    facts_of_all = [facts(np.ascontiguousarray(grey)) for grey in images]
    assert find_similar(facts_of_all) == [[0, 2, 5, 6], [1, 4]]
    assert group_identical(facts_of_all) == [[0, 6]]


def test_images_that_cannot_be_read_take_no_part() -> None:
    broken = ImageFacts(1, "", (4, 4), measure_objects((), (4, 4)), "image cannot be decoded")
    image = facts(cells(1))
    assert find_similar([broken, image, broken, image]) == [[1, 3]]


def test_the_eight_turns_differ_and_keep_the_first() -> None:
    thumbnail = np.arange(16, dtype=np.int8).reshape(1, 4, 4)
    turns = [turn_thumbnails(thumbnail, turn) for turn in range(8)]
    assert len({turn.tobytes() for turn in turns}) == 8 and (turns[0] == thumbnail).all()
