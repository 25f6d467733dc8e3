"""Images that are read window by window, so that they need not fit into memory."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mrcnn_jax.data.images import ImageHW

_BAND_PIXELS = 2**24  # read at a time where the whole image is needed


class ImageWindows:
    """An image whose windows are read at their use: `image[y0:y1, x0:x1]` is uint8 RGB [y1 - y0, x1 - x0, 3]."""

    def __init__(
        self, image_hw: ImageHW, read: Callable[[int, int, int, int], np.ndarray], notes: tuple[str, ...] = ()
    ):
        """Reads with `read(y0, y1, x0, x1)`, which returns uint8 [y1 - y0, x1 - x0, 3].

        `notes` are what was decided to read the image, as in `DecodedImage`.
        """
        self.shape = (*image_hw, 3)
        self.notes = notes
        self._read = read

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = window
        (y0, y1, _), (x0, x1, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        return self._read(y0, y1, x0, x1)


@dataclass(frozen=True)
class OpenedImage:
    """An image that is read window by window, in the place of a DecodedImage."""

    pixels: ImageWindows
    notes: tuple[str, ...]


def reduce_image(image: np.ndarray | ImageWindows, max_side: int) -> np.ndarray:
    """Returns the image scaled down, uint8 [h, w, 3], so that its longer side is at most `max_side`.

    Pixels are means of areas. The image is read in bands of rows of bounded size.
    """
    import cv2

    height, width = image.shape[:2]
    scale = max(height, width) / max_side
    if scale <= 1:
        return image[:, :]
    new_hw = max(1, round(height / scale)), max(1, round(width / scale))
    reduced = np.empty((*new_hw, 3), np.uint8)
    step = max(1, min(new_hw[0], int(_BAND_PIXELS / width / scale)))
    for first in range(0, new_hw[0], step):
        last = min(first + step, new_hw[0])
        rows = image[first * height // new_hw[0] : last * height // new_hw[0], :]
        cv2.resize(rows, (new_hw[1], last - first), dst=reduced[first:last], interpolation=cv2.INTER_AREA)
    return reduced
