"""The whole network: its parameters, the shapes of its maps, frozen stages, and independence of the canvas."""

import functools
import runpy
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.models.mask_rcnn import MaskRCNN, count_parameters, init_variables
from mrcnn_jax.models.resnet import frozen_modules
from mrcnn_jax.training.sharding import DATA_AXIS, make_mesh
from tests import tiny

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
BLOCKS |= {"resnet152": (3, 8, 36, 3), "resnext101_32x8d": (3, 4, 23, 3), "resnext101_64x4d": (3, 4, 23, 3)}
GROUPS = {"resnext101_32x8d": (32, 4), "resnext101_64x4d": (64, 4)}
"""Groups, and how much wider than a ResNet's the grouped convolutions are."""


@functools.cache
def shapes_of(config: ModelConfig) -> dict:
    return jax.eval_shape(lambda: init_variables(MaskRCNN(config), 0))


def expected_parameters(config: ModelConfig) -> int:
    """Counted from the papers: body, pyramid, RPN, and the heads that there are."""
    body, channels = count_body(config)
    norm = 2 if config.head_norm == "group_norm" else 1  # scale and shift instead of the bias
    total, depth = body, {"c4": channels[2], "c5": channels[3], "dc5": channels[3]}.get(config.neck, 0)
    if config.neck == "fpn":
        depth = config.fpn_channels
        total += sum((c + norm) * depth + (9 * depth + norm) * depth for c in channels)
    anchors = len(config.anchor_ratios) * (1 if config.neck == "fpn" else len(config.anchor_sizes))
    total += (9 * depth + 1) * depth + (depth + 1) * 5 * anchors
    total += count_box_heads(config, depth, channels[3])
    if config.masks:
        total += count_mask_head(config, depth, channels[3], norm)
    points = config.keypoint_head_dim
    for index in range(config.keypoint_head_convs if config.num_keypoints else 0):
        total += (9 * (depth if index == 0 else points) + 1) * points
    return total + (16 * points + 1) * config.num_keypoints


def count_body(config: ModelConfig) -> tuple[int, list[int]]:
    """Parameters of all four stages, wherever the last one stands, and the channels that they put out."""
    affine = 0 if config.norm == "frozen_bn" else 2  # a trained norm has a scale and a shift for each channel

    def conv_norm(size: int, cin: int, cout: int, groups: int = 1) -> int:
        return size * size * cin * cout // groups + affine * cout

    total, channels = conv_norm(7, 3, config.body_width), config.body_width
    stages = []
    for stage, blocks in enumerate(BLOCKS[config.backbone]):
        out = config.body_width * 2**stage
        groups, share = GROUPS.get(config.backbone, (1, 1))
        for _ in range(blocks):
            if config.backbone in ("resnet18", "resnet34"):
                width = out
                total += conv_norm(3, channels, width) + conv_norm(3, width, width)
            else:
                width, out = out * share, 4 * config.body_width * 2**stage
                total += conv_norm(1, channels, width) + conv_norm(3, width, width, groups) + conv_norm(1, width, out)
                width = out // 4
            if channels != out:
                total += conv_norm(1, channels, out)
            channels, out = out, width
        stages.append(channels)
    return total, stages


def count_box_heads(config: ModelConfig, depth: int, last_stage: int) -> int:
    logits, hidden = config.num_classes + 1, config.box_head_dim
    if config.neck == "c4":
        return (last_stage + 1) * 5 * logits
    fcs = (config.box_pool_size**2 * depth + 1) * hidden + (hidden + 1) * hidden
    one_box_for_all = config.box_head_stages > 1
    return config.box_head_stages * (fcs + (hidden + 1) * (logits + 4 * (1 if one_box_for_all else logits)))


def count_mask_head(config: ModelConfig, depth: int, last_stage: int, norm: int) -> int:
    maps, width, pool = 1 if config.class_agnostic_masks else config.num_classes + 1, config.mask_head_dim, 14
    if config.mask_head == "mlp":
        hidden = config.mask_head_fc_dim
        fcs = (pool**2 * depth + 1) * hidden + (config.mask_head_fcs - 1) * (hidden + 1) * hidden
        return fcs + (hidden + 1) * (2 * pool) ** 2 * maps
    convs = 0 if config.neck == "c4" else config.mask_head_convs
    total = sum((9 * (depth if index == 0 else width) + norm) * width for index in range(convs))
    return total + (4 * (width if convs else last_stage) + 1) * width + (width + 1) * maps


def test_r50_fpn_has_the_published_number_of_parameters():
    # torchvision's maskrcnn_resnet50_fpn with 91 logits and frozen batch norm.
    config = ModelConfig(num_classes=90)
    assert count_parameters(shapes_of(config)) == expected_parameters(config) == 44_401_393


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "resnet18"},
        {"backbone": "resnet34", "norm": "group_norm", "head_norm": "group_norm", "body_width": 32},
        {"backbone": "resnet101", "norm": "sync_bn", "mask_head_convs": 2},
        {"backbone": "resnet152", "num_classes": 1},
    ],
)
def test_every_body_builds(changes):
    config = ModelConfig(**changes)
    variables = shapes_of(config)
    assert count_parameters(variables) == expected_parameters(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    other = {"frozen_bn": {"frozen"}, "sync_bn": {"batch_stats"}, "group_norm": set()}[config.norm]
    assert set(variables) == {"params"} | other


def preset_configs() -> dict[str, ModelConfig]:
    configs = {}
    for path in sorted((Path(__file__).parents[2] / "configs").glob("*.py")):
        config = runpy.run_path(str(path))["config"].model
        configs[path.stem] = replace(config, num_classes=config.num_classes or 1)  # 0: the data say how many
    return configs


def test_every_preset_has_as_many_parameters_as_counted():
    presets = {config: name for name, config in preset_configs().items()}  # each model once
    assert len(presets) >= 5
    for config, name in presets.items():
        assert count_parameters(shapes_of(config)) == expected_parameters(config), name


def test_initial_variables_have_the_spread_of_their_initialiser():
    model = tiny.model_with(body_width=4, fpn_channels=4)
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
def test_canvas_does_not_matter(changes):
    # A picture of 50 x 70 alone on its canvas of 64 x 96, and on 128 x 160 with garbage around it, beside another one.
    config = replace(tiny.MODEL, **changes)
    model, variables, rng = MaskRCNN(config), tiny.make_variables(config), np.random.default_rng(0)
    picture = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    exact = np.zeros((1, 64, 96, 3), np.uint8)
    exact[0, :50, :70] = picture
    large = rng.integers(0, 256, (2, 128, 160, 3)).astype(np.uint8)
    large[1, :50, :70] = picture
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


def test_a_picture_of_size_zero_has_empty_maps():
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
