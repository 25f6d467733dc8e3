"""Details that decide whether foreign weights compute the same, 1 to 14 and 30: input, backbone, anchors, RPN.

Each is able to cost accuracy without a trace in names or shapes. Numbers are those of the golden tests' conventions.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.config.conventions import DETECTRON2, MMDETECTION, OURS, TORCHVISION
from mrcnn_jax.data.transforms import fit_size, flip_boxes, resize_image
from mrcnn_jax.detection.image_anchors import make_anchors
from mrcnn_jax.models.fpn import FeaturePyramid
from mrcnn_jax.models.layers import Conv, FrozenBatchNorm
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.models.resnet import ResidualBlock
from mrcnn_jax.ops.boxes import MAX_LOG_SCALE, decode_boxes
from mrcnn_jax.weights import detectron2, torchvision
from mrcnn_jax.weights.mapping import conv_kernel, stem_kernel
from tests import oracles
from tests.weights.reference import load_golden, load_image, make_arrays, make_source

RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_conventions_are_fields_with_four_sets_of_values() -> None:
    for conventions in (TORCHVISION, DETECTRON2, MMDETECTION):
        assert conventions.model.keys() == OURS.model.keys() and conventions.test.keys() == OURS.test.keys()
    assert OURS.model["sampling_ratio"] == ModelConfig().sampling_ratio


def test_01_bgr_kernels_become_rgb() -> None:
    weight, image = random(4, 3, 7, 7), random(7, 7, 3)  # BGR
    ours = stem_kernel(weight, is_bgr=True)
    np.testing.assert_allclose(
        np.einsum("hwc,hwco->o", image[..., ::-1], ours), np.einsum("hwc,ochw->o", image, weight), rtol=1e-4, atol=1e-5
    )
    assert not np.array_equal(ours, stem_kernel(weight, is_bgr=False))


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("detectron2_r50_fpn", (1.0, 1.0, 1.0)),
        ("detectron2_x101_fpn", (58.395, 57.12, 57.375)),
        ("torchvision_maskrcnn_resnet50_fpn", (58.395, 57.12, 57.375)),
    ],
)
def test_02_pixel_scale_follows_the_backbone(name: str, std: tuple[float, ...]) -> None:
    model = make_source(make_arrays(name, {})).recognised.model
    assert model.pixel_std == std and model.pixel_mean == (123.675, 116.28, 103.53)
    images = jnp.full((1, 32, 32, 3), 200, jnp.uint8)
    found = MaskRCNN(model).apply({}, images, jnp.array([[32, 32]]), method="normalise")
    np.testing.assert_allclose(found[0, 0, 0], (200 - np.array(model.pixel_mean)) / std, rtol=1e-6)


def test_03_resize_is_each_familys_own() -> None:
    image, small = load_image(), (100, 130)  # shrinks by more than 2, where antialiasing shows
    resized = {method: resize_image(image, small, method) for method in ("pillow", "float", "opencv")}
    assert resized["float"].dtype == np.float32 and resized["pillow"].dtype == np.uint8
    for one, other in (("pillow", "float"), ("pillow", "opencv"), ("float", "opencv")):
        assert np.abs(resized[one].astype(float) - resized[other]).max() > 2
    # Bilinear without antialiasing, pixel centres at +0.5.
    y, x = 40, 70
    at = (y + 0.5) * 231 / 100 - 0.5, (x + 0.5) * 300 / 130 - 0.5
    expected = oracles.bilinear(image.astype(np.float64), *at)
    np.testing.assert_allclose(resized["float"][y, x], expected, atol=1e-2)


def test_04_sides_are_rounded_or_floored() -> None:
    canvases = ((800, 1344), (1344, 800))
    assert fit_size((480, 640), 800, 1333, canvases, "nearest")[0] == (800, 1067)
    assert fit_size((480, 640), 800, 1333, canvases, "floor")[0] == (800, 1066)
    # torchvision floors the short side, too: 97 * (800 / 97) is below 800 in float64.
    for side in (97, 161, 167, 193):
        assert fit_size((side, side), 800, 1333, canvases, "floor")[0] == (799, 799)
        assert fit_size((side, side), 800, 1333, canvases, "nearest")[0] == (800, 800)
    assert sum(fit_size((side, side), 800, 1333, canvases, "floor")[0][0] == 799 for side in range(50, 2001)) == 85


def test_06_padding_is_zero_after_normalisation_and_its_extent_a_convention() -> None:
    images, image_hw = jnp.full((1, 64, 64, 3), 9, jnp.uint8), jnp.array([[33, 40]])
    found = MaskRCNN(ModelConfig()).apply({}, images, image_hw, method="normalise")[0]
    assert (found[:33, :40] != 0).all() and not found[33:].any() and not found[:, 40:].any()
    cells = {
        divisor: int(make_anchors((64, 64), image_hw[0], ModelConfig(size_divisor=divisor))[0].valid.sum()) // 3
        for divisor in (1, 32)
    }
    assert cells == {1: 9 * 10, 32: 16 * 16}
    assert make_source(make_arrays("detectron2_r50_c4", {})).recognised.model.size_divisor == 1
    assert make_source(make_arrays("detectron2_r50_fpn", {})).recognised.model.size_divisor == 32


def test_07_convolutions_pad_symmetrically() -> None:
    # SAME would pad (2, 3) for a 7x7 kernel of stride 2 on an even side.
    x, conv = random(1, 8, 8, 3), Conv(4, 7, 2, use_bias=False)
    kernel = random(7, 7, 3, 4)
    found = conv.apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(found[0], oracles.conv2d(x[0], kernel, 2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("in_1x1", [True, False])
def test_08_bottlenecks_stride_in_1x1_or_3x3(in_1x1: bool) -> None:
    config = ModelConfig(backbone_width=2, stride_in_1x1=in_1x1)
    block = ResidualBlock(config, 1, 2, train=False, axis_name=None)
    x, extents = jnp.asarray(random(1, 6, 6, 8)), (jnp.ones((1, 6, 6, 1), bool), jnp.ones((1, 3, 3, 1), bool))
    variables = jax.jit(block.init)(jax.random.key(0), x, *extents)
    kernels = {name: np.asarray(leaf["conv"]["kernel"]) for name, leaf in variables["params"].items()}
    relu = lambda a: np.maximum(a, 0)  # noqa: E731
    unit = 1 / np.sqrt(1 + config.norm_eps)  # a fresh frozen norm
    first = relu(oracles.conv2d(x[0], kernels["conv1"], 2 if in_1x1 else 1) * unit)
    second = relu(oracles.conv2d(first, kernels["conv2"], 1 if in_1x1 else 2) * unit)
    shortcut = oracles.conv2d(x[0], kernels["downsample"], 2) * unit
    expected = relu(oracles.conv2d(second, kernels["conv3"]) * unit + shortcut)
    np.testing.assert_allclose(block.apply(variables, x, *extents)[0], expected, rtol=1e-3, atol=1e-5)


def test_08_who_strides_where() -> None:
    strides = {
        name: make_source(make_arrays(name, {})).recognised.model.stride_in_1x1
        for name in ("detectron2_r50_fpn", "detectron2_x101_fpn", "torchvision_maskrcnn_resnet50_fpn")
    }
    assert list(strides.values()) == [True, False, False]


def test_09_batch_norm_eps_follows_the_release() -> None:
    arrays = make_arrays("torchvision_maskrcnn_resnet50_fpn", {})
    assert make_source(arrays).recognised.model.norm_eps == 1e-5  # counts its batches: trained by today's release
    published = {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}
    assert make_source(published).recognised.model.norm_eps == 0.0  # as torchvision loads its COCO_V1 weights
    x = random(1, 2, 2, 3)
    norm = {key: np.full(3, value, np.float32) for key, value in (("scale", 2), ("bias", 1), ("mean", 0.5))}
    norm["var"] = np.full(3, 1e-4, np.float32)
    for eps in (0.0, 1e-5):
        scale, shift = FrozenBatchNorm(eps).apply({"frozen": norm}, 3)
        np.testing.assert_allclose(
            x * np.asarray(scale) + np.asarray(shift), (x - 0.5) / np.sqrt(1e-4 + eps) * 2 + 1, rtol=1e-4
        )


def test_10_pyramid_adds_nearest_neighbours_and_p6_takes_every_second_cell() -> None:
    config = ModelConfig(fpn_channels=2)
    pyramid = FeaturePyramid(config)
    backbone = tuple(jnp.asarray(random(1, side, side, 2)) for side in (16, 8, 4, 2))
    image_hw = jnp.array([[64, 64]])
    variables = jax.jit(pyramid.init)(jax.random.key(0), backbone, image_hw)
    p2, _, _, p5, p6 = pyramid.apply(variables, backbone, image_hw)
    np.testing.assert_array_equal(p6, p5[:, ::2, ::2])
    parts = variables["params"]
    top = sum(
        np.repeat(np.repeat(oracles.conv2d(m[0], np.asarray(parts[f"lateral{level}"]["conv"]["kernel"])), s, 0), s, 1)
        for level, m, s in zip((2, 3, 4, 5), backbone, (1, 2, 4, 8), strict=True)
    )
    expected = oracles.conv2d(top, np.asarray(parts["output2"]["conv"]["kernel"]))
    np.testing.assert_allclose(p2[0], expected, rtol=1e-3, atol=1e-4)


def test_11_rpn_of_v2_has_two_convolutions_in_the_order_row_column_anchor() -> None:
    for name, convs in (("torchvision_maskrcnn_resnet50_fpn", 1), ("torchvision_maskrcnn_resnet50_fpn_v2", 2)):
        assert make_source(make_arrays(name, {})).recognised.model.rpn_convs == convs
    # Order: the golden tests compare [row, column, anchor]; here that deltas are (anchor, 4), not (4, anchor).
    weight = np.arange(12, dtype=np.float32).reshape(12, 1, 1, 1)
    assert conv_kernel(weight)[0, 0, 0].reshape(3, 4)[1].tolist() == [4, 5, 6, 7]


def test_12_anchors_are_rounded_and_fitted_or_not() -> None:
    image_hw = jnp.array([320, 415])
    theirs, ours = ModelConfig(**TORCHVISION.model), ModelConfig(**DETECTRON2.model)
    p2, *_, p6 = make_anchors((320, 416), image_hw, theirs)
    np.testing.assert_array_equal(p2.boxes[0], [-23, -11, 23, 11])
    np.testing.assert_array_equal(p6.boxes[3, ::2] - p6.boxes[0, ::2], [59, 59])  # 416 // 7, not 64
    p2, *_, p6 = make_anchors((320, 416), image_hw, ours)
    np.testing.assert_allclose(p2.boxes[0], [-22.627417, -11.313708, 22.627417, 11.313708], rtol=1e-6)
    np.testing.assert_array_equal(p6.boxes[3, ::2] - p6.boxes[0, ::2], [64, 64])


def test_13_scales_are_clamped_from_above_only() -> None:
    anchor, one = jnp.array([[0.0, 0, 16, 16]]), (1.0, 1.0, 1.0, 1.0)
    boxes = [decode_boxes(jnp.array([[0.0, 0, scale, 0]]), anchor, one)[0] for scale in (9, -9)]
    np.testing.assert_allclose([box[2] - box[0] for box in boxes], [1000, 16 * np.exp(-9)], rtol=1e-2)
    assert np.log(1000 / 16) == MAX_LOG_SCALE


def test_14_box_deltas_are_weighted_and_sides_have_no_plus_one() -> None:
    assert ModelConfig().box_delta_weights == (10, 10, 5, 5)
    anchor, deltas = np.array([[10.0, 20, 50, 100]]), np.array([[1.0, -2, 0.5, 0.25]])
    weights = ModelConfig().box_delta_weights
    found = decode_boxes(jnp.asarray(deltas, jnp.float32), jnp.asarray(anchor, jnp.float32), weights)
    np.testing.assert_allclose(found[0], oracles.decode_box(deltas[0], anchor[0], weights), rtol=1e-5)


def test_30_images_are_continuous_and_a_flip_maps_x_to_width_minus_x() -> None:
    np.testing.assert_array_equal(flip_boxes(np.array([[0.0, 1, 3, 4]]), 10), [[7, 1, 10, 4]])


def test_every_name_of_every_model_is_mapped() -> None:
    for module, name in ((torchvision, "torchvision_fasterrcnn_resnet50_fpn"), (detectron2, "detectron2_r101_fpn")):
        arrays = make_arrays(name, {})
        recognised = module.recognise(arrays)
        rows = module.table(recognised.model, arrays)
        left = set(arrays) - {row.source for row in rows}
        assert all(module.is_surplus(key) for key in left) and not {row.source for row in rows} - set(arrays)
    assert load_golden("detectron2_r50_c4")["meta"]["pad_multiple"] == 0
    assert replace(recognised.model).backbone == "resnet101"
