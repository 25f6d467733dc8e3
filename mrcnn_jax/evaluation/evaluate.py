"""A data set and a prediction function become COCO scores."""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrcnn_jax.config import DataConfig, ModelConfig, TestConfig
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.data.images import PictureError
from mrcnn_jax.detection.predict import predict
from mrcnn_jax.detection.two_passes import describe_boxes, predict_boxes
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.evaluation.augmented import augment, is_augmented
from mrcnn_jax.evaluation.batches import (
    InputBatch,
    PlannedBatch,
    PredictFn,
    assemble_batch,
    plan_batches,
    predict_pictures,
)
from mrcnn_jax.evaluation.cityscapes_metrics import format_scores, score_cityscapes
from mrcnn_jax.evaluation.coco_metrics import choose_sigmas, format_table, score_results
from mrcnn_jax.evaluation.restore import PictureDetections, restore_detections
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import Category, Detections

NUM_READERS = 4
"""Threads that read, decode and resize, each one batch."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a data set, and what they were computed from."""

    metrics: dict[str, Any]
    """{"bbox": {"AP": ...}, "segm": {...}, "categories": [...], "num_images": N, "skipped": {reason: count}}"""
    results: list[dict[str, Any]]
    """COCO results in the order of the data set, best first in each picture."""
    table: str
    """The scores in COCO's printable form."""


def evaluate(
    dataset: Dataset,
    predict_fn: PredictFn,
    *,
    test: TestConfig,
    num_devices: int = 1,
    progress: Callable[[int, int], None] | None = None,
    max_skip_fraction: float = DataConfig.max_skip_fraction,
    categories: Sequence[Category] | None = None,
    cityscapes: bool = False,
) -> Evaluation:
    """Predicts every picture of the data set and scores the detections in the pictures' own pixels.

    The result does not depend on the batch size, which is `test.batch_size * num_devices`. Memory holds a few batches
    and one run-length code a detection.

    Args:
        predict_fn: jitted by the caller; sees one shape per canvas, with filler in the last batch of each. It has to
            be one with augmentation if `test` asks for it, as `make_predict_fn` makes.
        progress: called with the number of pictures done and their total, after each picture.
        max_skip_fraction: more undecodable pictures than this raise DataError; fewer are counted and not scored.
        categories: the model's; the data set's by default. Detections of others than the data set's are not scored.
        cityscapes: masks are also scored as by Cityscapes, under "cityscapes"; the model needs a mask head.
    """
    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: no pictures to evaluate on. Choose another split.")
    ground_truth = dataset.coco_dict()
    reader = _Reader(dataset, test, test.batch_size * num_devices, max_skip_fraction)
    results: dict[int, list[dict[str, Any]]] = {}
    labels = tuple(dataset.categories if categories is None else categories)
    known_ids = {category.id for category in dataset.categories}
    iou_types = ["bbox"]
    for index, resized_hw, detections in predict_pictures(predict_fn, reader.batches()):
        height, width = dataset.sizes[index].tolist()
        restored = restore_detections(
            detections,
            resized_hw,
            (height, width),
            categories=labels,
            test=test,
        )
        found = restored.coco_results(int(dataset.image_ids[index]))
        results[index] = [row for row in found if row["category_id"] in known_ids]
        iou_types = iou_types_of(restored, dataset.categories)
        if progress is not None:
            progress(len(results) + sum(reader.skipped.values()), len(dataset))
    rows = [row for index in sorted(results) for row in results[index]]
    evaluated = {int(dataset.image_ids[index]) for index in results}
    ground_truth["annotations"] = [row for row in ground_truth["annotations"] if row["image_id"] in evaluated]
    scores = score_results(
        ground_truth,
        rows,
        max_detections=test.max_detections,
        iou_types=iou_types,
        keypoint_sigmas=test.keypoint_sigmas,
    )
    table = format_table(scores)
    if cityscapes:
        scores["cityscapes"] = score_cityscapes(ground_truth, rows)
        table += "\n" + format_scores(scores["cityscapes"])
    return Evaluation(scores | {"num_images": len(results), "skipped": reader.skipped}, rows, table)


def iou_types_of(detections: PictureDetections, categories: Sequence[Category]) -> list[str]:
    """What can be scored: boxes, and masks and keypoints where the model has them, the latter as many as the data.

    Raises ConfigError for another number of test.keypoint_sigmas.
    """
    masks, num_keypoints = bool(detections.mask_probabilities.shape[-1]), detections.keypoints.shape[1]
    has_keypoints = {len(c.keypoints) for c in categories if c.keypoints} == {num_keypoints}
    if has_keypoints:
        choose_sigmas(detections.test.keypoint_sigmas, num_keypoints)  # refused before all pictures are predicted
    return ["bbox", *["segm"] * masks, *["keypoints"] * has_keypoints]


def make_predict_fn(
    variables: Mapping[str, Any],
    model_config: ModelConfig,
    test: TestConfig,
    devices: Sequence[jax.Device],
    mirrored: Sequence[int] = (),
) -> PredictFn:
    """The compiled network on these devices, each of which takes its share of a batch: `num_devices=len(devices)`.

    With augmentation if `test` asks for it; a flip exchanges the keypoints by `mirrored` (`mirrored_keypoints`).
    """
    model = MaskRCNN(model_config)
    mesh = Mesh(np.asarray(devices), ("data",))
    on_devices = jax.device_put(dict(variables), NamedSharding(mesh, PartitionSpec()))
    split = PartitionSpec("data")

    def compiled(part: Callable[..., Detections], num_inputs: int = 2) -> PredictFn:
        specs = (PartitionSpec(), *[split] * num_inputs)
        run = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False))
        return lambda *inputs: run(on_devices, *jax.device_put(inputs, NamedSharding(mesh, split)))

    if not is_augmented(test):
        return compiled(functools.partial(predict, model=model, config=test))
    return augment(
        compiled(functools.partial(predict_boxes, model=model, config=test)),
        compiled(functools.partial(describe_boxes, model=model), num_inputs=3),
        test,
        num_keypoints=model_config.num_keypoints,
        mirrored=mirrored,
    )


def check_categories(of_weights: Sequence[Category], of_data: Sequence[Category]) -> None:
    """ConfigError unless the weights know the data set's category ids by the same names, and no other real ones.

    Weights may have outputs for ids that their data set does not use, as torchvision's have; they are named "N/A".
    """
    theirs = {category.id: category.name for category in of_data}
    ours = {category.id: category.name for category in of_weights if category.id in theirs or category.name != "N/A"}
    if ours != theirs:
        different = sorted(id_ for id_ in ours.keys() | theirs.keys() if ours.get(id_) != theirs.get(id_))
        shown = "; ".join(f"id {id_}: {ours.get(id_, 'none')} and {theirs.get(id_, 'none')}" for id_ in different[:3])
        raise ConfigError(
            f"Weights and data name different categories ({len(different)} differ: {shown}). "
            "Evaluate on data with the categories that the weights were trained on."
        )


class _Reader:
    """Reads a data set in batches, ahead of their use, and counts by reason the pictures that cannot be decoded."""

    def __init__(self, dataset: Dataset, test: TestConfig, batch_size: int, max_skip_fraction: float) -> None:
        self.skipped: dict[str, int] = {}
        self._dataset = dataset
        self._test = test
        self._batch_size = batch_size
        self._max_skip_fraction = max_skip_fraction

    def batches(self) -> Iterator[InputBatch]:
        """Every batch that has a picture; DataError as soon as too many pictures were skipped."""
        under_way: deque[Future[tuple[InputBatch, list[str]]]] = deque()
        with ThreadPoolExecutor(NUM_READERS) as pool:
            for planned in plan_batches(self._dataset.sizes, self._test, self._batch_size):
                under_way.append(pool.submit(self._read, planned))
                if len(under_way) > NUM_READERS:
                    yield from self._counted(*under_way.popleft().result())
            while under_way:
                yield from self._counted(*under_way.popleft().result())

    def _read(self, planned: PlannedBatch) -> tuple[InputBatch, list[str]]:
        """The batch, without the pictures that cannot be decoded, and why each of those cannot."""
        indices, pictures, reasons = [], [], []
        for index in planned.indices:
            try:
                pictures.append(self._dataset[index].image)
                indices.append(index)
            except DataError as error:
                if not isinstance(error.__context__, PictureError):
                    raise  # the record itself is damaged, and so is its ground truth
                reasons.append(error.__context__.reason)
        return assemble_batch(indices, pictures, planned.canvas, self._test, self._batch_size), reasons

    def _counted(self, batch: InputBatch, reasons: list[str]) -> Iterator[InputBatch]:
        for reason in reasons:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
        count, total = sum(self.skipped.values()), len(self._dataset)
        if count > self._max_skip_fraction * total:
            listed = ", ".join(f"{number} x {reason}" for reason, number in self.skipped.items())
            raise DataError(
                f"{self._dataset.name}: too many of the {total} pictures cannot be used ({listed}; allowed: "
                f"{self._max_skip_fraction:.1%}). Prepare the data set again."
            )
        if batch.indices:
            yield batch
