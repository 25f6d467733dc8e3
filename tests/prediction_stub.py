"""A stand-in for a Predictor, and images for it."""

import threading
from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import NumericalError
from mrcnn_jax.inference.postprocessing import ImageDetections

CATEGORIES = (Category(5, "light"), Category(7, "dark"))


class PredictorStub:
    """One object of category 5 as large as the image, scored by its first pixel, and a weak one of category 7."""

    categories = CATEGORIES
    test_config = TestConfig(batch_size=1)
    not_finite = 255

    def __init__(self) -> None:
        self.group_sizes: list[int] = []
        self.names: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, images, names):
        with self._lock:
            self.group_sizes.append(len(images))
            self.names += names
        assert len(names) == len(images)
        for image, name in zip(images, names, strict=True):
            if image[0, 0, 0] == self.not_finite:
                raise NumericalError(f"Image {name}: the RPN")
        return [detect(image) for image in images]


def detect(image: np.ndarray) -> ImageDetections:
    height, width = image.shape[:2]
    return ImageDetections(
        boxes=np.array([[0, 0, width, height], [0, 0, width / 2, height / 2]], np.float32),
        scores=np.array([image[0, 0, 0] / 256, 0.125], np.float32),
        labels=np.array([5, 7]),
        mask_probabilities=np.ones((2, 28, 28), np.float32),
        keypoints=np.zeros((2, 0, 3), np.float32),
        image_hw=(height, width),
        test=TestConfig(),
        categories=CATEGORIES,
    )


def write_image(path: Path, value: int = 128, size: tuple[int, int] = (20, 10)) -> Path:
    """A red image of this width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)
    return path
