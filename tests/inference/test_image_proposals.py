"""Proposals of images: sizes, order, objectness and what is left out, with a stand-in; once those of a real network."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import TestConfig
from mrcnn_jax.inference import prediction_program
from mrcnn_jax.inference.image_proposals import ProposalFinder
from mrcnn_jax.structures import Proposals
from tests import tiny

TEST = TestConfig(short_side=64, max_side=96, canvases=((64, 96), (96, 64)), batch_size=2, post_nms_top_n=16)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Puts a stand-in for `predict_proposals` in place; the list of input shapes that it was traced for.

    It finds the whole image with a logit of 0, a box that is not finite, and one that is not valid.
    """
    shapes = []

    def propose(variables: Any, images: Any, image_hw: Any, *, model: Any, test_config: TestConfig) -> Proposals:
        shapes.append(images.shape)
        height, width = image_hw[:, 0].astype(jnp.float32), image_hw[:, 1].astype(jnp.float32)
        whole = jnp.stack([0 * width, 0 * width, width, height], -1)
        return Proposals(
            boxes=jnp.stack([whole, whole * jnp.nan, whole], 1),
            scores=jnp.zeros((len(images), 3)),
            valid=jnp.tile(jnp.array([True, True, False]), (len(images), 1)),
        )

    monkeypatch.setattr(prediction_program, "predict_proposals", propose)
    return shapes


@pytest.mark.parametrize(("score", "objectness"), [("logit", 0.5), ("probability", 0.0)])
def test_boxes_are_in_pixels_of_each_image(traced: list[tuple[int, ...]], score: Any, objectness: float) -> None:
    finder = ProposalFinder({"params": {}}, replace(tiny.MODEL, proposal_score=score), TEST)
    finder.warm_up()
    sizes = [(64, 96), (300, 200), (32, 40), (128, 192), (10, 9)]
    found = finder([np.zeros((*image_hw, 3), np.uint8) for image_hw in sizes])
    for (height, width), (boxes, scores) in zip(sizes, found, strict=True):
        np.testing.assert_allclose(boxes, [[0, 0, width, height]], rtol=1e-6)
        assert scores.tolist() == [objectness]
    assert sorted(traced) == [(2, 64, 96, 3), (2, 96, 64, 3)], "nothing is compiled after the warm-up"
    assert finder([]) == []


def test_proposals_of_a_network_lie_in_the_image_best_first() -> None:
    finder = ProposalFinder(tiny.make_variables(tiny.MODEL), tiny.MODEL, TEST)
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    ((boxes, objectness),) = finder([image])
    assert 1 <= len(boxes) <= 16 and boxes.shape == (len(objectness), 4)
    assert (boxes >= 0).all() and (boxes <= [60, 40, 60, 40]).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert (np.diff(objectness) <= 0).all() and ((objectness > 0) & (objectness < 1)).all()
