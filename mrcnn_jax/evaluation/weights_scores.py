"""Evaluates the weights of a folder on prepared data."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from mrcnn_jax.weights.coco_categories import UNUSED
from mrcnn_jax.weights.folder import load_weights

MAX_SHOWN = 5
"""Names that a message lists."""


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


@dataclass(frozen=True)
class MatchedCategories:
    """The categories that a model and a data set share, by name."""

    categories: tuple[Category, ...]
    """The model's categories in the order of its labels, with the data's ids; those not shared have ids below them."""
    only_weights: tuple[str, ...]
    only_data: tuple[str, ...]

    @property
    def note(self) -> str:
        """A sentence about what is not scored; "" if weights and data have the same categories."""
        if not self.only_weights and not self.only_data:
            return ""
        num_named = sum(category.name != UNUSED for category in self.categories)
        parts = [f"Scored on the {num_named - len(self.only_weights)} categories that weights and data share by name."]
        for place, names in (("weights", self.only_weights), ("data", self.only_data)):
            if names:
                shown = ", ".join(names[:MAX_SHOWN]) + ", ..." * (len(names) > MAX_SHOWN)
                parts.append(f"Only in the {place}: {len(names)} ({shown}).")
        return " ".join(parts)


def match_categories(of_weights: Sequence[Category], of_data: Sequence[Category]) -> MatchedCategories:
    """Returns the categories of the weights with the data's ids where the names are equal.

    Outputs of the weights without a class are named "N/A", as torchvision's for ids that COCO does not use. Raises
    ConfigError if no name is shared, or if one occurs twice.
    """
    for place, categories in (("weights", of_weights), ("data", of_data)):
        counts = Counter(category.name for category in categories if category.name != UNUSED)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ConfigError(f"Two categories of the {place} are named {twice[0]}. Rename one, so that names match.")
    ids = {category.name: category.id for category in of_data if category.name != UNUSED}
    names = {category.name for category in of_weights if category.name != UNUSED}
    if not names & set(ids):
        ours, theirs = (", ".join(list(some)[:MAX_SHOWN]) for some in (sorted(names), ids))
        raise ConfigError(
            f"Weights and data share no category name (weights: {ours}; data: {theirs}). If they are the same classes, "
            "import or train the weights with the data's names: --categories FILE.json of the import names the outputs "
            f'by ascending id, "{UNUSED}" those without a class.'
        )
    lowest = min(0, *(category.id for category in of_data))
    labelled = enumerate(of_weights, start=1)
    categories = tuple(replace(each, id=ids.get(each.name, lowest - label)) for label, each in labelled)
    only_weights = tuple(category.name for category in of_weights if category.name in names - set(ids))
    only_data = tuple(category.name for category in of_data if category.name not in names)
    return MatchedCategories(categories, only_weights, only_data)
