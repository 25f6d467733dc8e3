"""The count of operations against XLA's own, and the time of a schedule."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from mrcnn_jax.config import Config
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.recipe import step_cost
from mrcnn_jax.recipe.network_sizes import NETWORK_SIZES
from mrcnn_jax.recipe.schedule import plan_time
from tests.recipe.hand_made import SLOW, make_input
from tests.tiny import MODEL


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_operations_of_backbone_and_neck_are_those_that_xla_counts(backbone: str) -> None:
    config = replace(MODEL, backbone=backbone, backbone_width=32, norm="frozen_bn", head_norm="none")
    model = MaskRCNN(config)

    def forward(variables: object, images: jax.Array, image_hw: jax.Array) -> object:
        features = model.apply(variables, images, image_hw, method="extract_features")
        return model.apply(variables, features, image_hw, method="score_anchors")

    images = jax.ShapeDtypeStruct((1, 512, 640, 3), jnp.uint8)
    sizes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    lowered = jax.jit(forward).lower(variable_shapes(model), images, sizes)
    flops = lowered.cost_analysis()["flops"]
    # Normalisation and additions, which are not counted, and the edges of padded convolutions.
    assert 2 * step_cost._image_macs(config, (512, 640)) == pytest.approx(flops, rel=0.05)


def test_operations_grow_with_pixels_rois_and_batch() -> None:
    config = Config()
    one = step_cost.step_flops(config, (320, 320), 1)
    assert step_cost.step_flops(config, (320, 320), 4) == pytest.approx(4 * one)
    heads = step_cost.step_flops(config, (0, 0), 1)
    assert step_cost.step_flops(config, (640, 320), 1) == pytest.approx(2 * one - heads)
    boxes = replace(config, model=replace(config.model, masks=False))
    assert step_cost.step_flops(boxes, (0, 0), 1) < heads / 2


def test_the_time_is_spent_on_start_steps_and_evaluation() -> None:
    config = replace(Config(), data=replace(Config().data, canvases=((320, 320), (320, 640))))
    shares = {(320, 320): 0.75, (320, 640): 0.25}
    size = NETWORK_SIZES[0]
    plan = plan_time(make_input(minutes=600.0, num_images=10_000), config, shares, size)
    expected = sum(share * step_cost.step_flops(config, canvas, 16) for canvas, share in shares.items()) / 20e9
    assert plan.step_seconds == pytest.approx(expected)
    assert plan.start_seconds == 15 + 2 * SLOW.start_seconds
    total = plan.start_seconds + plan.evaluation_seconds + plan.num_steps * plan.step_seconds
    assert 0.9 * 36_000 < total <= 36_000
    assert plan_time(make_input(minutes=0.1), config, shares, size).num_steps == 20, "not less"


def test_small_data_bounds_the_steps() -> None:
    plan = plan_time(make_input(minutes=1e6), Config(), {(320, 320): 1.0}, NETWORK_SIZES[0])
    assert plan.is_bounded and plan.num_steps * 16 <= 100 * 50
