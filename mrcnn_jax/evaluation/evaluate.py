"""Evaluates a prediction function on a data set with COCO's and, on request, Cityscapes' metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from mrcnn_jax.categories import Category
from mrcnn_jax.config import DataConfig, TestConfig
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.distributed import gather_bytes, shared_errors
from mrcnn_jax.errors import DataError
from mrcnn_jax.evaluation.boxes_only import describe_boxes_only
from mrcnn_jax.evaluation.cityscapes_metrics import format_scores, score_cityscapes
from mrcnn_jax.evaluation.coco_metrics import format_table, score_results
from mrcnn_jax.evaluation.dataset_predictions import PartReader, Predicted, predict_part
from mrcnn_jax.inference.batches import PredictFn


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a data set, and the results from which they were computed."""

    metrics: dict[str, Any]
    """{"bbox": {"AP": ...}, "segm": {...}, "categories": [...], "num_images": N, "skipped": {reason: count}}"""
    results: list[dict[str, Any]]
    """COCO results in the order of the data set, best first in each image."""
    table: str
    """The scores as a printable table in COCO's form."""
    note: str = ""
    """A sentence about categories that were not scored; "" if there are none."""


def evaluate(
    dataset: Dataset,
    predict_fn: PredictFn,
    *,
    test_config: TestConfig,
    num_devices: int = 1,
    progress: Callable[[int, int], None] | None = None,
    max_skip_fraction: float = DataConfig.max_skip_fraction,
    categories: Sequence[Category] | None = None,
    cityscapes: bool = False,
    before_batch: Callable[[], None] | None = None,
) -> Evaluation:
    """Predicts every image of the data set and scores the detections in pixels of the original images.

    The result depends neither on the batch size, which is `test_config.batch_size * num_devices`, nor on the number of
    processes that have joined: each predicts its part of the batches on its own devices, and all score all results.
    Only a few batches and one run-length code per detection are in memory.

    Args:
        predict_fn: prediction function, such as that of `make_predict_fn`, jitted by the caller and called with one
            shape per canvas, with filler in the last batch of each. It includes the augmentation of `test_config`.
        progress: called after each image with the number of images done and their total, of this process.
        max_skip_fraction: share of undecodable images above which DataError is raised; fewer are counted, not scored.
        categories: categories of the model, by default those of the data set. Detections of categories that the data
            set does not have are not scored, and neither are objects of categories that the model does not have.
        cityscapes: also score masks with Cityscapes' metric, under "cityscapes"; the model needs a mask head.
        before_batch: called before each batch is read, equally often in all processes; may raise to end the evaluation.
    """
    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: no images to evaluate on. Choose another split.")
    reader = PartReader(
        dataset,
        test_config,
        test_config.batch_size * num_devices,
        max_skip_fraction,
        part=(jax.process_index(), jax.process_count()),
        before_batch=before_batch,
    )
    labels = tuple(dataset.categories if categories is None else categories)
    with shared_errors():
        own = predict_part(reader, predict_fn, labels, progress)
    predicted = own if jax.process_count() == 1 else Predicted.merge(gather_bytes(own.encode()))
    reader.check_skipped(predicted.skipped)
    ground_truth, rows = dataset.coco_dict(), predicted.rows()
    evaluated = {int(dataset.image_ids[index]) for index in predicted.results}
    known = {category.id for category in labels}
    ground_truth["categories"] = [category for category in ground_truth["categories"] if category["id"] in known]
    ground_truth["annotations"] = [
        row for row in ground_truth["annotations"] if row["image_id"] in evaluated and row["category_id"] in known
    ]
    scores = score_results(
        ground_truth,
        rows,
        max_detections=test_config.max_detections,
        iou_types=predicted.iou_types,
        keypoint_sigmas=test_config.keypoint_sigmas,
    )
    table = format_table(scores)
    if not ground_truth["annotations"]:
        table += f"\n{dataset.name} has no objects of these categories, so nothing is scored."
    if "segm" in predicted.iou_types and (note := describe_boxes_only(ground_truth["annotations"])):
        table += "\n" + note
    if cityscapes:
        scores["cityscapes"] = score_cityscapes(ground_truth, rows)
        table += "\n" + format_scores(scores["cityscapes"])
    return Evaluation(scores | {"num_images": len(evaluated), "skipped": predicted.skipped}, rows, table)
