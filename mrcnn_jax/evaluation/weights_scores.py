"""Evaluates the weights of a folder on prepared data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.transforms import with_keypoint_flip
from mrcnn_jax.errors import ConfigError
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

    Args:
        weights: weights folder, or the workdir of a run.
        data: prepared folder, DIR or DIR:SPLIT.
        test_config: test settings, by default those of the weights folder.
        cityscapes: also score masks with Cityscapes' metric.
        progress: called with the number of images done and their total.
        test_overrides: fields of TestConfig to replace, such as `short_side=640`.

    Raises:
        ConfigError: settings are invalid, or weights and data name different categories.
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
    check_categories(loaded.categories, dataset.categories)
    mesh = make_mesh(jax.local_devices())
    model = with_keypoint_flip(loaded.model, loaded.categories) if test_config.augment_flip else loaded.model
    return evaluate(
        dataset,
        make_predict_fn(loaded.variables, model, test_config, mesh),
        test_config=test_config,
        num_devices=mesh.size,
        progress=progress,
        categories=loaded.categories,
        cityscapes=cityscapes,
    )


def check_categories(of_weights: Sequence[Category], of_data: Sequence[Category]) -> None:
    """Raises ConfigError unless weights and data have the same category ids with the same names.

    Weights may have further outputs named "N/A" for ids that their data set does not use, as torchvision's do.
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
