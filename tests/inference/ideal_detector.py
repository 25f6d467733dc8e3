"""A detector that finds every object exactly, but sees only the image that it is given: seams are the only difficulty.

Images show the number of the object at each pixel as a colour, so that any window of an image can be detected.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.inference.mask_crops import MaskCrop
from mrcnn_jax.inference.postprocessing import ImageDetections

CATEGORIES = (Category(5, "light"), Category(7, "dark"))


def paint(numbers: np.ndarray) -> np.ndarray:
    """The image [H, W, 3] of object numbers int [H, W]; 0 is the background."""
    return np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], axis=-1).astype(np.uint8)


def read_numbers(image: np.ndarray) -> np.ndarray:
    return image.astype(np.int64) @ [1, 256, 65536]


def objects_of(numbers: np.ndarray) -> dict[int, MaskCrop]:
    """The mask of each object."""
    found, ranks = np.unique(numbers, return_inverse=True)
    ranks = ranks.reshape(numbers.shape) + (found[0] != 0)
    crops = {}
    for number, window in zip(found[found != 0].tolist(), ndimage.find_objects(ranks), strict=True):
        rows, columns = window
        place = (rows.start, rows.stop, columns.start, columns.stop)
        crops[number] = MaskCrop(numbers[window] == number, place)
    return crops


class IdealDetector:
    """In the place of a Predictor. Objects with an even number are of category 7, others of 5.

    `sees(crop, image_hw)` states which objects it finds; `reduced`, if given, is the whole image's numbers, which it
    uses for the image named `(reduced)`, whose colours are mixed.
    """

    categories = CATEGORIES

    def __init__(
        self,
        *,
        sees: Callable[[MaskCrop, tuple[int, int]], bool] = lambda crop, image_hw: True,
        reduced: np.ndarray | None = None,
        num_mask_bins: int = 1,
        **settings,
    ) -> None:
        self.test_config = TestConfig(**settings)
        self.shapes: list[tuple[int, ...]] = []
        self.names: list[str] = []
        self._sees, self._reduced, self._num_mask_bins = sees, reduced, num_mask_bins

    def __call__(self, images: Sequence[np.ndarray], names: Sequence[str] | None = None) -> list[ImageDetections]:
        assert names is not None and len(names) == len(images)
        self.names += names
        self.shapes += [image.shape for image in images]
        return [self._detect(image, name) for image, name in zip(images, names, strict=True)]

    def _detect(self, image: np.ndarray, name: str) -> ImageDetections:
        image_hw = image.shape[:2]
        numbers = read_numbers(image)
        if name.endswith("(reduced)"):
            numbers = np.zeros(image_hw, int)
            if self._reduced is not None:
                rows, columns = (
                    (np.arange(new) * 2 + 1) * old // (2 * new)
                    for new, old in zip(image_hw, self._reduced.shape, strict=True)
                )
                numbers = self._reduced[np.ix_(rows, columns)]
        crops = {number: crop for number, crop in objects_of(numbers).items() if self._sees(crop, image_hw)}
        return exact_detections(crops, image_hw, self.test_config, self._num_mask_bins)


def exact_detections(
    crops: dict[int, MaskCrop], image_hw: tuple[int, int], test: TestConfig, num_mask_bins: int = 1
) -> ImageDetections:
    """Detections of the objects with these masks; scores fall with the number."""
    count, numbers = len(crops), np.array(list(crops), int)
    windows = np.array([crop.window for crop in crops.values()], np.float32).reshape(-1, 4)
    return ImageDetections(
        boxes=windows[:, [2, 0, 3, 1]],
        scores=(1 / (1 + numbers)).astype(np.float32),
        labels=np.where(numbers % 2, 5, 7),
        mask_probabilities=np.zeros((count, num_mask_bins, num_mask_bins), np.float32),
        keypoints=np.zeros((count, 0, 3), np.float32),
        image_hw=image_hw,
        test=test,
        categories=CATEGORIES,
        crops=tuple(crops.values()) if num_mask_bins else None,
    )
