"""What a prepared split is made from: pictures as encoded bytes with their COCO annotations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrcnn_jax.categories import Category
from mrcnn_jax.data.images import ImageHW


@dataclass(frozen=True)
class Picture:
    """One picture as its source gives it; annotations are COCO dicts with at least `id` and `category_id`."""

    image_id: int
    file_name: str
    data: bytes  # encoded, as in the file
    image_hw: ImageHW
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Source:
    """A sequence of pictures. Equal fingerprints mean equal pictures and annotations."""

    name: str
    fingerprint: str
    categories: tuple[Category, ...]  # ascending id
    num_pictures: int
    load: Callable[[int], Picture]  # by position, from any thread; raises images.PictureError
    describe: Callable[[int], str]  # which picture, for messages
    num_left_out: int = 0  # pictures that were not asked for
