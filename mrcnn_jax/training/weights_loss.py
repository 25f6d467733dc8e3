"""The validation loss of a weights folder, as a run computes it for the same step."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from mrcnn_jax.config import LossConfig, TestConfig
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.evaluation.category_matching import match_categories
from mrcnn_jax.evaluation.dataset_loss import DatasetLoss, LossInputs, compute_dataset_loss
from mrcnn_jax.mesh import make_mesh, replicated
from mrcnn_jax.training.training_program import make_loss_program
from mrcnn_jax.weights.folder import load_weights


class WeightsLoss(NamedTuple):
    """The loss of a weights folder on a data set."""

    loss: DatasetLoss
    note: str
    """A sentence if default settings were used, because the folder records none; else ""."""


def evaluate_weights_loss(
    weights: str | Path,
    data: str,
    *,
    test_config: TestConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WeightsLoss:
    """Returns every loss term of a weights folder on a prepared data set, on all devices of this process.

    Args:
        weights: weights folder, or the workdir of a run.
        data: prepared folder, DIR or DIR:SPLIT.
        test_config: test settings, by default those of the weights folder; they determine the size of the images.
        progress: called with the number of images done and their total.

    Raises:
        ConfigError: weights and data share no category.
        DataError: weights or data are missing or damaged.
        NumericalError: the loss of an image is not finite.
    """
    loaded = load_weights(weights)
    dataset = open_dataset(data)
    categories = match_categories(loaded.categories, dataset.categories).categories
    loss_config = loaded.loss or LossConfig()
    mesh = make_mesh(jax.local_devices())
    variables = jax.device_put(dict(loaded.variables), replicated(mesh))
    loss = compute_dataset_loss(
        dataset,
        functools.partial(make_loss_program(loaded.model, loss_config, mesh), variables),
        LossInputs(loaded.model, test_config or loaded.test, loss_config, categories),
        num_devices=mesh.size,
        progress=progress,
    )
    note = f"{weights} records no settings of its loss, so the defaults of --targets were used."
    return WeightsLoss(loss, "" if loaded.loss else note)
