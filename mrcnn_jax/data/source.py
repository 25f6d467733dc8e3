"""The sources of prepared splits: encoded images with their COCO annotations."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mrcnn_jax.categories import Category
from mrcnn_jax.config.depth_setting import AUTO_DEPTH
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.images import ImageHW


@dataclass(frozen=True)
class SourceImage:
    """One image of a source. Its annotations are COCO dicts in the frame of the upright image."""

    image_id: int
    file_name: str
    data: bytes  # encoded, as in the file
    image_hw: ImageHW  # upright
    annotations: tuple[dict[str, Any], ...]
    void: dict[str, Any] | None = None  # RLE of the pixels that are not evaluated, whatever is detected there
    findings: Findings | None = None  # objects repaired and left out while reading; None if nothing was looked for


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
    findings: Findings = field(default_factory=Findings)  # what was found before any image is loaded
    depth: str = AUTO_DEPTH  # range of images with more than 8 bits (data/depth.py)
