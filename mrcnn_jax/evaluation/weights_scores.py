"""Evaluates the weights of a folder on prepared data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from mrcnn_jax.config import TestConfig
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.transforms import with_keypoint_flip
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.evaluation.category_matching import match_categories
from mrcnn_jax.evaluation.evaluate import Evaluation, evaluate
from mrcnn_jax.inference.prediction_program import make_predict_fn
from mrcnn_jax.inference.predictor import check_override_names, override_test
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.weights.folder import load_weights


def evaluate_weights(
    weights: str | Path,
    data: str,
    *,
    test_config: TestConfig | None = None,
    cityscapes: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **test_overrides: Any,
) -> Evaluation:
    """Scores a weights folder on a prepared data set with COCO's metrics, on all devices of this process.

    Only categories that are in both are scored, matched by name; `note` and `metrics["categories_left_out"]` of the
    result list the others.

    Args:
        weights: weights folder, or the workdir of a run.
        data: prepared folder, DIR or DIR:SPLIT.
        test_config: test settings, by default those of the weights folder.
        cityscapes: also score masks with Cityscapes' metric.
        progress: called with the number of images done and their total.
        test_overrides: fields of TestConfig to replace, such as `short_side=640`.

    Raises:
        ConfigError: settings are invalid, or weights and data share no category.
        DataError: weights or data are missing or damaged.
        NumericalError: the network computed NaN or infinity for an image.
    """
    check_override_names(test_overrides)
    loaded = load_weights(weights)
    if cityscapes and not loaded.model.masks:
        raise ConfigError(
            "Cityscapes' metric needs masks, but the model has no mask head. Evaluate without --cityscapes."
        )
    test_config = override_test(test_config or loaded.test, test_overrides)
    dataset = open_dataset(data)
    matched = match_categories(loaded.categories, dataset.categories)
    mesh = make_mesh(jax.local_devices())
    model = with_keypoint_flip(loaded.model, loaded.categories) if test_config.augment_flip else loaded.model
    evaluation = evaluate(
        dataset,
        make_predict_fn(loaded.variables, model, test_config, mesh),
        test_config=test_config,
        num_devices=mesh.size,
        progress=progress,
        categories=matched.categories,
        cityscapes=cityscapes,
    )
    if not matched.note:
        return evaluation
    left_out = {"weights": list(matched.only_weights), "data": list(matched.only_data)}
    return replace(evaluation, metrics=evaluation.metrics | {"categories_left_out": left_out}, note=matched.note)
