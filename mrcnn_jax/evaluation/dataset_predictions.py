"""Predictions of one process for its part of a data set, and the merging of all parts."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

from mrcnn_jax.categories import Category
from mrcnn_jax.config import Canvas
from mrcnn_jax.data.dataset import Dataset, Record
from mrcnn_jax.evaluation.coco_metrics import choose_sigmas
from mrcnn_jax.evaluation.dataset_reader import DatasetReader
from mrcnn_jax.inference.batches import InputBatch, PredictFn, assemble_batch, predict_images
from mrcnn_jax.inference.postprocessing import ImageDetections, restore_detections


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


class PartReader(DatasetReader[InputBatch]):
    """Reads images as input of the prediction program."""

    def assemble(self, indices: Sequence[int], records: Sequence[Record], canvas: Canvas) -> InputBatch:
        return assemble_batch(indices, [record.image for record in records], canvas, self.test, self.batch_size)
