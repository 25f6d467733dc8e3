"""The tiny model's losses and gradients, compiled once for all tests that look at them."""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from mrcnn_jax.detection.objective import compute_objective
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.structures import Batch
from tests import tiny

LossesAndGradients = tuple[dict[str, np.ndarray], dict]


@pytest.fixture(scope="session")
def objective() -> Callable[..., LossesAndGradients]:
    """(batch, seed of the key) to the sums over images and the gradients of their total, as NumPy arrays."""
    model, variables = MaskRCNN(tiny.MODEL), tiny.make_variables(tiny.MODEL)

    def total(params: dict, batch: Batch, key: jax.Array):
        result = compute_objective(params, {}, batch, key, model=model, targets_config=tiny.TARGETS)
        return result.total, {**result.sums, "num_images": result.num_images}

    differentiate = jax.jit(jax.grad(total, has_aux=True))

    def run(batch: Batch, seed: int = 0) -> LossesAndGradients:
        gradients, sums = jax.device_get(differentiate(variables["params"], batch, jax.random.key(seed)))
        return sums, gradients

    return run
