"""A predictor without a network, images as clients send them, and a reader of the server's metrics."""

import io
import re
import threading
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import NumericalError
from mrcnn_jax.inference.image_proposals import ImageProposals
from mrcnn_jax.inference.postprocessing import ImageDetections

CATEGORIES = (Category(2, "dog <b>"), Category(7, "person", ("head", "hand", "foot"), ((1, 2), (2, 3))))
SCORES = (0.9, 0.6, 0.3)
SLOW, NOT_FINITE, FAILS = 253, 254, 255
"""Values of the first pixel for which the stub takes a second, or raises NumericalError or RuntimeError."""


class StubPredictor:
    """Finds three objects in every image: at the top left, at the bottom right, and all over it.

    The first two have a mask with the shape of a ring, and the second has keypoints, the last of which is hidden.
    """

    categories = CATEGORIES
    test_config = TestConfig(
        score_threshold=0.05, short_side=64, max_side=96, canvases=((64, 96), (96, 64)), batch_size=4
    )

    def __init__(self, warm_up_error: Exception | None = None) -> None:
        self.batches: list[list[int]] = []
        """The first pixel of each image of each call."""
        self.may_go_on = threading.Event()
        """Calls wait for it."""
        self.may_go_on.set()
        self.is_called = threading.Event()
        self._warm_up_error = warm_up_error

    def warm_up(self) -> None:
        if self._warm_up_error:
            raise self._warm_up_error

    def __call__(self, images: Sequence[np.ndarray]) -> list[ImageDetections]:
        marks = [int(image[0, 0, 0]) for image in images]
        self.batches.append(marks)
        self.is_called.set()
        assert self.may_go_on.wait(timeout=20)
        if SLOW in marks:
            time.sleep(1)
        if FAILS in marks:
            raise RuntimeError("/home/someone/secret.npz is broken")
        if NOT_FINITE in marks:
            raise NumericalError("Image images[0]: the RPN computed values that are not finite.")
        return [detect(image.shape[:2]) for image in images]


class StubFinder:
    """Finds 120 proposals in every image: the first is the left half, the others are its top left pixel."""

    def __init__(self) -> None:
        self.is_warm = False

    def warm_up(self) -> None:
        self.is_warm = True

    def __call__(self, images: Sequence[np.ndarray]) -> list[ImageProposals]:
        assert self.is_warm
        found = []
        for image in images:
            boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (120, 1))
            boxes[0] = [0, 0, image.shape[1] / 2, image.shape[0]]
            found.append(ImageProposals(boxes, np.linspace(1, 0, 120, dtype=np.float32)))
        return found


def detect(image_hw: tuple[int, int]) -> ImageDetections:
    """The detections of every image of this size."""
    height, width = image_hw
    boxes = np.array([[0, 0, 0.5, 0.5], [0.5, 0.25, 1, 1], [0, 0, 1, 1]]) * [width, height, width, height]
    ring = np.ones((28, 28), np.float32)
    ring[10:18, 10:18] = 0.0
    keypoints = np.zeros((3, 3, 3), np.float32)
    keypoints[1] = [[0.75 * width, 0.35 * height, 0.9], [0.9 * width, 0.6 * height, 0.8], [0, 0, 0.01]]
    return ImageDetections(
        boxes=boxes.astype(np.float32),
        scores=np.array(SCORES, np.float32),
        labels=np.array([2, 7, 2]),
        mask_probabilities=np.stack([ring, ring, np.zeros_like(ring)]),
        keypoints=keypoints,
        image_hw=(height, width),
        test=StubPredictor.test_config,
        categories=CATEGORIES,
    )


def encode_image(mark: int = 100, size: tuple[int, int] = (60, 40), form: str = "PNG") -> bytes:
    """A grey image of this value and size (width, height)."""
    stream = io.BytesIO()
    Image.new("RGB", size, (mark, mark, mark)).save(stream, form)
    return stream.getvalue()


def read_metrics(text: str) -> dict[str, float]:
    """The samples by name and labels; every line must have the form that Prometheus defines."""
    samples, described = {}, set()
    for line in text.splitlines():
        if comment := re.fullmatch(r"# (HELP|TYPE) ([a-z_]+) (.+)", line):
            described.add(comment[2])
            assert comment[1] == "HELP" or comment[3] in ("counter", "gauge", "histogram")
            continue
        sample = re.fullmatch(r'([a-z_]+)(\{[a-z]+="[^"\\]*"\})? ([0-9.]+)', line)
        assert sample, line
        family = re.sub(r"_(bucket|sum|count)$", "", sample[1])
        assert family in described or sample[1] in described, line
        samples[sample[1] + (sample[2] or "")] = float(sample[3])
    return samples
