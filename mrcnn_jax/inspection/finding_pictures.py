"""Small drawn images of the places that findings name."""

from collections.abc import Sequence

import cv2
import numpy as np

from mrcnn_jax.data.bitmaps import decode_mask
from mrcnn_jax.data.dataset import ObjectRecord
from mrcnn_jax.errors import DataError
from mrcnn_jax.inspection.catalogue import Example
from mrcnn_jax.inspection.inspected_split import InspectedSplit
from mrcnn_jax.visualization.overlays import draw_detections

MAX_SIDE = 320
"""Long side of a picture in pixels."""
MIN_WINDOW = 48
"""Pixels of the image that a picture of an object shows at least, on its long side."""
MARGIN = 0.75
"""Surroundings of objects on each side, as a share of their long side."""
JPEG_QUALITY = 78

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the image."""


def draw_example(split: InspectedSplit, example: Example, *, is_compared: bool) -> np.ndarray | None:
    """Returns the objects of an example with their surroundings, or the whole image with all of its objects.

    An image that is compared with another one is shown without objects, which would hide it. The picture is uint8 RGB
    [h, w, 3], of at most 320 pixels a side; None if the image cannot be read.
    """
    try:
        record = split.dataset[example.image]
    except DataError:
        return None
    chosen = [record.objects[place] for place in example.objects] or list(record.objects)
    boxes = split.images[example.image].objects.boxes
    boxes = boxes[list(example.objects)] if example.objects else boxes
    image_hw = (record.image.shape[0], record.image.shape[1])
    window = _around(boxes, image_hw) if example.objects else (0, 0, image_hw[1], image_hw[0])
    x0, y0, x1, y1 = window
    scale = MAX_SIDE / max(x1 - x0, y1 - y0)
    width, height = (max(1, round((high - low) * scale)) for low, high in ((x0, x1), (y0, y1)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(np.ascontiguousarray(record.image[y0:y1, x0:x1]), (width, height), interpolation=way)
    if is_compared:
        return np.asarray(picture, np.uint8)
    masks = _masks(chosen, image_hw, window, (height, width))
    return draw_detections(
        np.asarray(picture, np.uint8),
        (boxes - (x0, y0, x0, y0)) * scale,
        None,
        np.array([split.dataset.categories[item.label - 1].id for item in chosen], np.int64),
        lambda index: (masks[index], (0, height, 0, width)),
        split.dataset.categories,
        keep_size=True,
    )


def encode_jpeg(picture: np.ndarray) -> bytes:
    """Returns a picture uint8 RGB as the bytes of a JPEG file."""
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    return encoded.tobytes()


def _around(boxes: np.ndarray, image_hw: tuple[int, int]) -> Window:
    """Returns a window around boxes [n, 4], inside the image."""
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    side = max(float((high - low).max()) * (1 + 2 * MARGIN), MIN_WINDOW)
    limits = np.array(image_hw[::-1])
    first = np.floor(np.clip((low + high - side) / 2, 0, np.maximum(limits - side, 0))).astype(int)
    last = np.minimum(np.ceil(first + side).astype(int), limits)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])


def _masks(
    objects: Sequence[ObjectRecord], image_hw: tuple[int, int], window: Window, picture_hw: tuple[int, int]
) -> list[np.ndarray]:
    """Returns the masks of objects as the picture of a window shows them, bool [h, w]; [0] without a mask."""
    x0, y0, x1, y1 = window
    masks = []
    for item in objects:
        if item.segmentation is None:
            masks.append(np.zeros(0, bool))
            continue
        mask = np.ascontiguousarray(decode_mask(item.segmentation, image_hw)[y0:y1, x0:x1])
        way = cv2.INTER_AREA if picture_hw[0] < mask.shape[0] else cv2.INTER_LINEAR
        masks.append(cv2.resize(mask * 255, picture_hw[::-1], interpolation=way) >= 128)
    return masks
