"""The boxes of a prepared split, read without decoding an image, and their sizes at the network's input.

Shapes: N images that were read, K objects in them without crowds. Boxes are x0, y0, x1, y1 in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrcnn_jax.config import Canvas
from mrcnn_jax.data.annotations import clip_bbox
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.data.transforms import fit_size
from mrcnn_jax.errors import DataError


@dataclass(frozen=True)
class BoxFacts:
    """The boxes of the images that were read."""

    image_hw: np.ndarray  # [N, 2] int64 height, width
    boxes: np.ndarray  # [K, 4] float64, clipped to the image
    labels: np.ndarray  # [K] int64, 1..C
    image_index: np.ndarray  # [K] int64, into image_hw
    num_crowds: int

    @property
    def counts(self) -> np.ndarray:
        """Objects of each image [N], without crowds."""
        return np.bincount(self.image_index, minlength=len(self.image_hw))


def read_box_facts(dataset: Dataset, max_images: int) -> BoxFacts:
    """Returns the facts of at most this many images, evenly spread over the split. Damaged records are skipped."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), max_images)).astype(np.int64))
    sizes: list[tuple[int, int]] = []
    boxes: list[tuple[float, float, float, float]] = []
    labels: list[int] = []
    image_index: list[int] = []
    num_crowds = 0
    for index in chosen:
        try:
            objects = dataset.objects(int(index))
        except DataError:  # counted and reported when its batch is read
            continue
        height, width = (int(side) for side in dataset.sizes[index])
        for item in objects:
            if item.is_crowd:
                num_crowds += 1
                continue
            boxes.append(clip_bbox(item.bbox, (height, width)))
            labels.append(item.label)
            image_index.append(len(sizes))
        sizes.append((height, width))
    return BoxFacts(
        image_hw=np.asarray(sizes, np.int64).reshape(-1, 2),
        boxes=np.asarray(boxes, np.float64).reshape(-1, 4),
        labels=np.asarray(labels, np.int64),
        image_index=np.asarray(image_index, np.int64),
        num_crowds=num_crowds,
    )


def scale_boxes(facts: BoxFacts, short_side: int, max_side: int, canvases: Sequence[Canvas]) -> np.ndarray:
    """Returns the boxes [K, 4] float64 at the network's input, for images resized to this short side."""
    scales = np.ones((len(facts.image_hw), 2))
    for index, (height, width) in enumerate(facts.image_hw.tolist()):
        (new_height, new_width), _ = fit_size((height, width), short_side, max_side, canvases)
        scales[index] = new_width / width, new_height / height
    return facts.boxes * np.tile(scales, 2)[facts.image_index]


def box_sides(boxes: np.ndarray) -> np.ndarray:
    """Returns the widths and heights [K, 2] of boxes [K, 4]."""
    return np.asarray(boxes[:, 2:] - boxes[:, :2])
