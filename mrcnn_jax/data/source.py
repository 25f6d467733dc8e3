"""What a prepared split is made from: images as encoded bytes with their COCO annotations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrcnn_jax.categories import Category
from mrcnn_jax.data.images import ImageHW


@dataclass(frozen=True)
class SourceImage:
    """One image as its source gives it; annotations are COCO dicts with at least `id` and `category_id`."""

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
    load: Callable[[int], SourceImage]  # by position, from any thread; raises images.ImageError
    describe: Callable[[int], str]  # which image, for messages
    num_left_out: int = 0  # images that were not asked for
