"""Predictions of one process for its part of a data set, and the merging of all parts."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.data.data_findings import check_budget
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.data.images import ImageError
from mrcnn_jax.errors import DataError
from mrcnn_jax.evaluation.coco_metrics import choose_sigmas
from mrcnn_jax.inference.batches import (
    InputBatch,
    PlannedBatch,
    PredictFn,
    assemble_batch,
    plan_batches,
    predict_images,
)
from mrcnn_jax.inference.postprocessing import ImageDetections, restore_detections
from mrcnn_jax.integers import ceil_div

NUM_READERS = 4
"""Threads that read, decode and resize images, each for one batch."""


@dataclass(frozen=True)
class Predicted:
    """The detections in some images of a data set."""

    results: dict[int, list[dict[str, Any]]]
    """COCO results of each image, by its index in the data set, best first."""
    skipped: dict[str, int]
    """Images that could not be decoded, counted by reason."""
    iou_types: list[str]
    """Types of scores that can be computed, named as in pycocotools."""

    def encode(self) -> bytes:
        """Returns the detections as JSON, to be sent to other processes."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def merge(cls, encoded: Sequence[bytes]) -> Self:
        """Merges encoded detections, each of different images."""
        parts = [json.loads(part) for part in encoded]
        results = {int(index): rows for part in parts for index, rows in part["results"].items()}
        reasons = sorted({reason for part in parts for reason in part["skipped"]})
        skipped = {reason: sum(part["skipped"].get(reason, 0) for part in parts) for reason in reasons}
        return cls(results, skipped, max((part["iou_types"] for part in parts), key=len))

    def rows(self) -> list[dict[str, Any]]:
        """Returns all results in the order of the data set."""
        return [row for index in sorted(self.results) for row in self.results[index]]


def predict_part(
    reader: "PartReader",
    predict_fn: PredictFn,
    categories: tuple[Category, ...],
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Predicts the images of the reader and converts the detections to pixels of the original images.

    Label k of the model is categories[k - 1]; detections of categories that the data set does not have are left out.
    """
    dataset, test = reader.dataset, reader.test
    of_model = {category.id for category in categories}
    known = [category for category in dataset.categories if category.id in of_model]
    known_ids = {category.id for category in known}
    predicted = Predicted({}, reader.skipped, ["bbox"])
    for index, resized_hw, detections in predict_images(predict_fn, reader.batches()):
        height, width = dataset.sizes[index].tolist()
        restored = restore_detections(
            detections,
            resized_hw,
            (height, width),
            categories=categories,
            test_config=test,
            name=partial(_name_image, dataset, index),
        )
        found = restored.coco_results(int(dataset.image_ids[index]))
        predicted.results[index] = [row for row in found if row["category_id"] in known_ids]
        predicted.iou_types[:] = iou_types_of(restored, known)
        if progress is not None:
            progress(len(predicted.results) + sum(reader.skipped.values()), reader.num_images)
    return predicted


def _name_image(dataset: Dataset, index: int) -> str:
    return dataset.describe(index)


def iou_types_of(detections: ImageDetections, categories: Sequence[Category]) -> list[str]:
    """Returns the types of scores that can be computed: boxes, and masks and keypoints if the model has them.

    Keypoints need to be as many as in the data. Raises ConfigError if test.keypoint_sigmas has another number.
    """
    masks, num_keypoints = detections.has_masks, detections.keypoints.shape[1]
    has_keypoints = {len(c.keypoints) for c in categories if c.keypoints} == {num_keypoints}
    if has_keypoints:
        choose_sigmas(detections.test.keypoint_sigmas, num_keypoints)  # raises before all images are predicted
    return ["bbox", *["segm"] * masks, *["keypoints"] * has_keypoints]


class PartReader:
    """Reads a data set in batches ahead of their use, and counts the images that cannot be decoded by reason.

    Part (i, n) consists of every n-th batch from the i-th on; `before_batch` is called equally often in all parts.
    """

    def __init__(
        self,
        dataset: Dataset,
        test_config: TestConfig,
        batch_size: int,
        max_skip_fraction: float,
        *,
        part: tuple[int, int] = (0, 1),
        before_batch: Callable[[], None] | None = None,
    ) -> None:
        self.dataset = dataset
        self.test = test_config
        self.skipped: dict[str, int] = {}
        self._batch_size = batch_size
        self._max_skip_fraction = max_skip_fraction
        self._before_batch = before_batch
        index, count = part
        batches = plan_batches(dataset.sizes, test_config, batch_size)
        self._batches = batches[index::count]
        self._num_rounds = ceil_div(len(batches), count)
        self.num_images = sum(len(batch.indices) for batch in self._batches)

    def batches(self) -> Iterator[InputBatch]:
        """Yields every batch that has an image; raises DataError as soon as too many images have been skipped."""
        under_way: deque[Future[tuple[InputBatch, list[str]]]] = deque()
        with ThreadPoolExecutor(NUM_READERS) as pool:
            for number in range(self._num_rounds):
                if self._before_batch is not None:
                    self._before_batch()
                if number < len(self._batches):
                    under_way.append(pool.submit(self._read, self._batches[number]))
                if len(under_way) > NUM_READERS:
                    yield from self._counted(*under_way.popleft().result())
            while under_way:
                yield from self._counted(*under_way.popleft().result())

    def _read(self, planned: PlannedBatch) -> tuple[InputBatch, list[str]]:
        """Returns the batch without the images that cannot be decoded, and the reason for each of those."""
        indices, images, reasons = [], [], []
        for index in planned.indices:
            try:
                images.append(self.dataset[index].image)
                indices.append(index)
            except DataError as error:
                if not isinstance(error.__context__, ImageError):
                    raise  # the record itself is damaged, including its ground truth
                reasons.append(error.__context__.reason)
        return assemble_batch(indices, images, planned.canvas, self.test, self._batch_size), reasons

    def _counted(self, batch: InputBatch, reasons: list[str]) -> Iterator[InputBatch]:
        for reason in reasons:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
        self.check_skipped(self.skipped)
        if batch.indices:
            yield batch

    def check_skipped(self, skipped: Mapping[str, int]) -> None:
        """Raises DataError if too many images of the data set were skipped for a meaningful score."""
        check_budget(
            sum(skipped.values()),
            len(self.dataset),
            self._max_skip_fraction,
            name=self.dataset.name,
            details=f" ({', '.join(f'{number} x {reason}' for reason, number in skipped.items())})",
        )
