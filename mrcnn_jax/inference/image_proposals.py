"""Proposals of the RPN in pixels of the images, to explain what the later stages had to choose from."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.inference.batches import assemble_batch, plan_batches, predict_images
from mrcnn_jax.inference.prediction_program import make_proposal_fn
from mrcnn_jax.mesh import make_mesh


class ImageProposals(NamedTuple):
    """Proposals of one image, best first: boxes [n, 4] float32 in pixels of the image, and objectness [n] in 0..1."""

    boxes: np.ndarray
    objectness: np.ndarray


class ProposalFinder:
    """Finds the proposals from which `predict` selects detections: `finder(images)`.

    Compiles once per canvas, as `Predictor` does. Test-time augmentation is not applied.
    """

    def __init__(self, variables: Mapping[str, Any], model_config: ModelConfig, test_config: TestConfig) -> None:
        """Copies the variables to JAX's first device."""
        self._model_config, self._test_config = model_config, test_config
        mesh = make_mesh(jax.local_devices()[:1])
        self._propose = make_proposal_fn(variables, model_config, test_config, mesh)

    def __call__(self, images: Sequence[np.ndarray]) -> list[ImageProposals]:
        """Returns the proposals of each image, uint8 RGB [H, W, 3], without those that are not finite."""
        config = self._test_config
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        batches = (
            assemble_batch(plan.indices, [images[i] for i in plan.indices], plan.canvas, config, config.batch_size)
            for plan in plan_batches(sizes, config, config.batch_size)
        )
        found = {
            index: self._restore(proposals, resized_hw, sizes[index])
            for index, resized_hw, proposals in predict_images(self._propose, batches)
        }
        return [found[index] for index in range(len(images))]

    def warm_up(self) -> None:
        """Compiles for every canvas."""
        config = self._test_config
        for canvas in config.canvases:
            filler = assemble_batch((), [], canvas, config, config.batch_size)
            jax.block_until_ready(self._propose(filler.images, filler.image_hw))

    def _restore(self, proposals: Any, resized_hw: ImageHW, image_hw: ImageHW) -> ImageProposals:
        valid = np.asarray(proposals.valid)
        scores = np.asarray(proposals.scores, np.float64)
        if self._model_config.proposal_score == "logit":
            scores = 1.0 / (1.0 + np.exp(-scores.clip(-50, 50)))
        scale_y, scale_x = image_hw[0] / resized_hw[0], image_hw[1] / resized_hw[1]
        boxes = np.asarray(proposals.boxes, np.float64) * [scale_x, scale_y, scale_x, scale_y]
        valid = valid & np.isfinite(boxes).all(-1) & np.isfinite(scores)
        return ImageProposals(boxes[valid].astype(np.float32), scores[valid].astype(np.float32))
