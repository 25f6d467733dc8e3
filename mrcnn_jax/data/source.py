"""The sources of prepared splits: encoded images with their COCO annotations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrcnn_jax.categories import Category
from mrcnn_jax.data.images import ImageHW


@dataclass(frozen=True)
class SourceImage:
    """One image of a source. Its annotations are COCO dicts with at least `id` and `category_id`."""

    image_id: int
    file_name: str
    data: bytes  # encoded, as in the file
    image_hw: ImageHW
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Source:
    """A sequence of images. Equal fingerprints mean equal images and annotations."""

    name: str
    fingerprint: str
    categories: tuple[Category, ...]  # ascending id
    num_images: int
    load: Callable[[int], SourceImage]  # takes a position, may run in any thread; raises images.ImageError
    describe: Callable[[int], str]  # the image at a position, for messages
    num_left_out: int = 0  # images that the source was told to leave out
