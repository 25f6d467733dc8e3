"""The whole network: its parameters, the shapes of its maps, frozen stages, and independence of the canvas."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.mesh import DATA_AXIS, make_mesh
from mrcnn_jax.models.heads import RpnHead
from mrcnn_jax.models.mask_rcnn import MaskRCNN, count_parameters, init_variables, variable_shapes
from mrcnn_jax.models.resnet import frozen_modules
from tests import tiny
from tests.parameters import expected_parameters


def shapes_of(model_config: ModelConfig) -> dict:
    return variable_shapes(MaskRCNN(model_config))


def test_r50_fpn_has_the_published_number_of_parameters():
    # torchvision's maskrcnn_resnet50_fpn with 91 logits and frozen batch norm.
    config = ModelConfig(num_classes=90)
    assert count_parameters(shapes_of(config)) == expected_parameters(config) == 44_401_393


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "resnet10"},
        {"backbone": "resnet18"},
        {"backbone": "resnet34", "norm": "group_norm", "head_norm": "group_norm", "backbone_width": 32},
        {"backbone": "resnet101", "norm": "sync_bn", "mask_head_convs": 2},
        {"backbone": "resnet152", "num_classes": 1},
    ],
)
def test_every_backbone_builds(changes):
    config = ModelConfig(**changes)
    variables = shapes_of(config)
    assert count_parameters(variables) == expected_parameters(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    other = {"frozen_bn": {"frozen"}, "sync_bn": {"batch_stats"}, "group_norm": set()}[config.norm]
    assert set(variables) == {"params"} | other


def test_initial_variables_have_the_spread_of_their_initialiser():
    model = tiny.model_with(backbone_width=4, neck="dc5", masks=False)
    kernel = init_variables(model, 0)["params"]["backbone"]["stem"]["conv"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (49 * 4)), rtol=0.2)  # He, fan out


def extract(model: MaskRCNN):
    return jax.jit(
        lambda variables, images, image_hw: model.apply(variables, images, image_hw, method=model.extract_features)
    )


def test_maps_have_their_strides():
    # 96 is one and a half cells of P6: two of them.
    model = MaskRCNN(tiny.MODEL)
    images, image_hw = jax.ShapeDtypeStruct((2, 96, 160, 3), jnp.uint8), jax.ShapeDtypeStruct((2, 2), jnp.int32)
    pyramid = jax.eval_shape(extract(model), shapes_of(tiny.MODEL), images, image_hw)
    assert [level.shape for level in pyramid] == [
        (2, 24, 40, 16),
        (2, 12, 20, 16),
        (2, 6, 10, 16),
        (2, 3, 5, 16),
        (2, 2, 3, 16),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "frozen_bn", "head_norm": "none"},
        {"norm": "group_norm", "head_norm": "group_norm"},
        {"norm": "frozen_bn", "head_norm": "none", "backbone": "resnet50"},
    ],
)
def test_canvas_does_not_matter(changes, one_block):
    # An image of 50 x 70 alone on its canvas of 64 x 96, and on 128 x 160 with garbage around it, beside another one.
    config = replace(tiny.MODEL, **changes)
    model, variables, rng = MaskRCNN(config), tiny.make_variables(config), np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    exact = np.zeros((1, 64, 96, 3), np.uint8)
    exact[0, :50, :70] = image
    large = rng.integers(0, 256, (2, 128, 160, 3)).astype(np.uint8)
    large[1, :50, :70] = image
    alone = extract(model)(variables, jnp.asarray(exact), jnp.array([[50, 70]]))
    beside = extract(model)(variables, jnp.asarray(large), jnp.array([[128, 160], [50, 70]]))
    tolerance = 3e-5 if config.norm == "group_norm" else 1e-5
    for level, on_large in zip(alone, beside, strict=True):
        _, height, width, _ = level.shape
        # Sums over other shapes are rounded differently, and a norm over the six cells of P5 magnifies that.
        np.testing.assert_allclose(on_large[1, :height, :width], level[0], atol=tolerance * np.abs(level).max())
        outside = np.array(on_large[1])
        outside[:height, :width] = 0
        assert not outside.any()


@pytest.mark.parametrize("num_convs", [1, 2])
def test_canvas_does_not_matter_to_the_rpn(num_convs):
    """A second convolution of the RPN head reads the first one's features, bias and all, beyond the image's border."""
    config = replace(tiny.MODEL, rpn_convs=num_convs)
    head, rng = RpnHead(config), np.random.default_rng(0)
    feature = rng.normal(size=(1, 4, 6, config.feature_channels)).astype(np.float32)
    on_large = np.zeros((1, 8, 10, config.feature_channels), np.float32)
    on_large[:, :4, :6] = feature
    inside = np.zeros((1, 8, 10, 1), bool)
    inside[:, :4, :6] = True
    variables = head.init(jax.random.key(0), feature, np.ones((1, 4, 6, 1), bool))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # biases that are not zero
    alone = head.apply(variables, feature, np.ones((1, 4, 6, 1), bool))
    beside = head.apply(variables, on_large, inside)
    anchors = config.anchors_per_cell
    for found, expected, channels in zip(beside, alone, (anchors, 4 * anchors), strict=True):
        found = np.asarray(found).reshape(8, 10, channels)[:4, :6]
        np.testing.assert_allclose(found, np.asarray(expected).reshape(4, 6, channels), rtol=1e-4, atol=1e-5)


def test_batch_statistics_are_those_of_all_devices():
    config = replace(tiny.MODEL, norm="sync_bn", head_norm="none")
    variables, batch = tiny.make_variables(config), tiny.make_batch(8)

    def train(model: MaskRCNN, variables, images, image_hw):
        choices = {"train": True, "method": model.extract_features, "mutable": ["batch_stats"]}
        return model.apply(variables, images, image_hw, **choices)

    mesh, whole, split = make_mesh(), PartitionSpec(), PartitionSpec(DATA_AXIS)
    sharded = jax.shard_map(
        functools.partial(train, MaskRCNN(config, axis_name=DATA_AXIS)),
        mesh=mesh,
        in_specs=(whole, split, split),
        out_specs=(split, whole),
        check_vma=False,
    )
    pyramid, updates = jax.jit(sharded)(variables, batch.images, batch.image_hw)
    expected, expected_updates = jax.jit(functools.partial(train, MaskRCNN(config)))(
        variables, batch.images, batch.image_hw
    )
    for level, level_alone in zip(pyramid, expected, strict=True):
        np.testing.assert_allclose(level, level_alone, atol=1e-4 * np.abs(level_alone).max())
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), updates, expected_updates)
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), updates["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(changed))


def test_a_image_of_size_zero_has_empty_maps():
    images = jnp.full((1, 64, 64, 3), 200, jnp.uint8)
    variables = tiny.make_variables(tiny.MODEL)
    pyramid = extract(MaskRCNN(tiny.MODEL))(variables, images, jnp.zeros((1, 2), jnp.int32))
    assert all(not np.asarray(level).any() for level in pyramid)


@pytest.mark.parametrize("freeze_at", [0, 2, 5])
def test_frozen_stages_get_exactly_no_gradient(freeze_at):
    config = replace(tiny.MODEL, norm="frozen_bn", head_norm="none", freeze_at=freeze_at)
    model, variables = MaskRCNN(config), tiny.make_variables(replace(config, freeze_at=0))
    images, image_hw = tiny.make_batch(1).images, jnp.array([[64, 64]])

    def loss(params):
        pyramid = model.apply({**variables, "params": params}, images, image_hw, method=model.extract_features)
        return sum(jnp.sum(level * level) for level in pyramid)

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    frozen = frozen_modules(config)
    assert len(frozen) == freeze_at
    for name, module in gradients["backbone"].items():
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(module))
        assert (largest == 0) == name.startswith(frozen) if frozen else largest > 0, name
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients["fpn"]))
