"""Images that show the same, found from thumbnails: copies that were resized, compressed, brightened or turned.

Two comparisons, both independent of brightness and contrast. The first one correlates all pairs of images at 16 x 16
pixels. It alone would confuse dark microscope images that are brighter in the middle. The pairs that it leaves are
correlated at 64 x 64 pixels without their coarse structure, which different images do not share.
"""

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np

from mrcnn_jax.inspection.image_facts import THUMBNAIL_SIDE, ImageFacts

COARSE = 0.9
"""Correlation at 16 x 16 pixels from which a pair is compared in detail."""
DETAIL = 0.7
"""Correlation of the details from which two images are similar. In four real sets, different images had at most 0.33,
and copies that were compressed, halved, blurred, brightened or noisy at least 0.92."""
MIN_CONTRAST = 1.0
"""Images whose grey values vary less show nothing, and are not compared."""
MAX_TURNED = 20_000
"""With more images, only upright and mirrored ones are compared; turned ones would take minutes."""
_COARSE_SIDE = 16
_SIGMA = 2.0  # pixels of the thumbnail; details are finer
_BLOCK = 256  # images compared with all others at a time


def find_similar(images: Sequence[ImageFacts]) -> list[list[int]]:
    """Returns the groups of positions of images that show the same, each in order.

    Copies may be mirrored or turned by multiples of 90 degrees. Every member is similar to another one of its group.
    Images that cannot be read, or that show nothing, take no part.
    """
    chosen = [
        index for index, image in enumerate(images) if image.thumbnail is not None and image.contrast >= MIN_CONTRAST
    ]
    if len(chosen) < 2:
        return []
    coarse = np.concatenate(
        [_normalise(_shrink(_stack_block(images, chosen, start))) for start in range(0, len(chosen), _BLOCK)]
    )
    turns = range(8) if len(chosen) <= MAX_TURNED else (0, 4)
    groups = np.arange(len(chosen))  # [N] the lowest member of each image's group
    for start in range(0, len(chosen), _BLOCK):
        rows = _stack_block(images, chosen, start)
        for turn in turns:
            turned = turn_thumbnails(rows, turn)
            is_close = _normalise(_shrink(turned)) @ coarse[start:].T >= COARSE
            for row in np.flatnonzero(is_close.any(axis=1)).tolist():
                first = start + row
                # In a group that is already found, as of a film's frames, not all pairs are compared.
                is_new = is_close[row] & (groups[start:] != groups[first])
                for other in (start + np.flatnonzero(is_new)).tolist():
                    if _share_details(turned[row], _thumbnail(images[chosen[other]])):
                        low, high = sorted((groups[first], groups[other]))
                        groups[groups == high] = low
    members: dict[int, list[int]] = defaultdict(list)
    for position, group in zip(chosen, groups.tolist(), strict=True):
        members[group].append(position)
    return [group for group in members.values() if len(group) > 1]


def _stack_block(images: Sequence[ImageFacts], chosen: Sequence[int], start: int) -> np.ndarray:
    """Returns the thumbnails of one block of the chosen images, [n, 64, 64]."""
    return np.stack([_thumbnail(images[index]) for index in chosen[start : start + _BLOCK]])


def _thumbnail(image: ImageFacts) -> np.ndarray:
    """Returns the thumbnail of an image that could be read."""
    assert image.thumbnail is not None
    return image.thumbnail


def turn_thumbnails(thumbnails: np.ndarray, turn: int) -> np.ndarray:
    """Returns thumbnails [n, 64, 64] turned by `turn` % 4 right angles and, from 4 on, mirrored."""
    turned = np.rot90(thumbnails, turn % 4, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if turn >= 4 else turned)


def _shrink(thumbnails: np.ndarray) -> np.ndarray:
    factor = THUMBNAIL_SIDE // _COARSE_SIDE
    shape = (len(thumbnails), _COARSE_SIDE, factor, _COARSE_SIDE, factor)
    return np.asarray(thumbnails.reshape(shape).mean(axis=(2, 4), dtype=np.float32))


def _normalise(images: np.ndarray) -> np.ndarray:
    """Returns images [n, h, w] as vectors [n, h * w] of mean 0 and length 1, float32."""
    vectors = images.reshape(len(images), -1).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6))


def _share_details(first: np.ndarray, second: np.ndarray) -> bool:
    a, b = (_normalise(_details(each)[None])[0] for each in (first, second))
    return bool(a @ b >= DETAIL)


def _details(thumbnail: np.ndarray) -> np.ndarray:
    values = thumbnail.astype(np.float32)
    return np.asarray(values - cv2.GaussianBlur(values, (0, 0), _SIGMA))
