"""The heads against NumPy: order of the RPN's anchors, class selection of the mask head, the transposed convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.models.heads import (
    BoxHead,
    MaskHead,
    RpnHead,
    Upconv,
    interleave,
    score_at_once,
    score_by_cell,
    score_in_parts,
)
from tests import oracles

CONFIG = ModelConfig(
    num_classes=3, fpn_channels=6, box_head_dim=7, mask_head_dim=5, mask_head_convs=2, anchor_ratios=(0.5, 2.0)
)


def random_array(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def random_variables(module, *inputs) -> dict:
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    leaves, structure = jax.tree.flatten(shapes)
    return structure.unflatten([random_array(*leaf.shape, seed=10 + i) / 2 for i, leaf in enumerate(leaves)])


def parts(variables: dict, *path: str) -> list[np.ndarray]:
    """Kernel and bias of a layer, float64."""
    layer = variables["params"]
    for name in path:
        layer = layer[name]
    return [np.asarray(layer[name], np.float64) for name in ("kernel", "bias")]


def test_upconv_equals_transposed_convolution():
    x, upconv = random_array(2, 3, 4, 6), Upconv(5, jnp.dtype("float32"))
    variables = random_variables(upconv, x)
    out = interleave(upconv.apply(variables, x))
    kernel, bias = parts(variables)
    assert out.shape == (2, 6, 8, 5)
    for image in range(2):
        np.testing.assert_allclose(out[image], oracles.transposed_conv2d(x[image], kernel) + bias, rtol=1e-4, atol=1e-5)
    flipped = jnp.asarray(kernel[::-1, ::-1], jnp.float32)  # the convention of lax, the gradient's of a convolution
    lax_form = jax.lax.conv_transpose(x, flipped, (2, 2), "VALID")
    np.testing.assert_allclose(np.asarray(out) - bias, lax_form, rtol=1e-4, atol=1e-5)


def test_rpn_head_order_is_row_column_ratio():
    feature, head = random_array(2, 3, 4, 6), RpnHead(CONFIG)
    extent = np.ones((2, 3, 4, 1), bool)
    variables = random_variables(head, feature, extent)
    logits, deltas = head.apply(variables, feature, extent)
    assert logits.shape == (2, 3 * 4 * 2) and deltas.shape == (2, 3 * 4, 2 * 4)
    (conv, conv_bias), (score, score_bias), (shift, shift_bias) = (
        parts(variables, name) for name in ("conv", "objectness", "deltas")
    )
    hidden = np.maximum(oracles.conv2d(feature[1], conv) + conv_bias, 0)
    for row, column, ratio in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2, 3, 1)]:
        index = (row * 4 + column) * 2 + ratio
        expected = hidden[row, column] @ score[0, 0] + score_bias
        np.testing.assert_allclose(logits[1, index], expected[ratio], rtol=1e-4, atol=1e-5)
        expected = hidden[row, column] @ shift[0, 0] + shift_bias
        np.testing.assert_allclose(deltas[1, row * 4 + column], expected, rtol=1e-4, atol=1e-5)


def test_box_head_equals_matrix_products():
    features, head = random_array(3, 2, 2, 6), BoxHead(CONFIG)
    variables = random_variables(head, features)
    hidden, logits, deltas = head.apply(variables, features)
    x = np.asarray(features, np.float64).reshape(3, -1)
    for name in ("fc1", "fc2"):
        kernel, bias = parts(variables, name)
        x = np.maximum(x @ kernel + bias, 0)
    np.testing.assert_allclose(hidden, x, rtol=1e-4, atol=1e-5)
    (kernel, bias), (delta_kernel, delta_bias) = parts(variables, "logits"), parts(variables, "deltas")
    np.testing.assert_allclose(logits, x @ kernel + bias, rtol=1e-4, atol=1e-5)
    expected = (x @ delta_kernel + delta_bias).reshape(3, 4, 4)  # class by class
    np.testing.assert_allclose(deltas, expected, rtol=1e-4, atol=1e-5)


def test_mask_head_picks_the_map_of_each_label():
    features, labels, head = random_array(4, 3, 3, 6), jnp.array([0, 3, 1, 3]), MaskHead(CONFIG)
    variables = random_variables(head, features, labels)
    logits = head.apply(variables, features, labels)
    assert logits.shape == (4, 6, 6)
    params = variables["params"]
    for index, label in enumerate(labels):
        x = np.asarray(features[index], np.float64)
        for name in ("conv1", "conv2"):
            kernel, bias = parts(variables, name, "conv")
            x = np.maximum(oracles.conv2d(x, kernel) + bias, 0)
        kernel, bias = parts(variables, "upconv")
        x = np.maximum(oracles.transposed_conv2d(x, kernel) + bias, 0)
        all_maps = x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)
        np.testing.assert_allclose(logits[index], all_maps[..., label], rtol=1e-4, atol=1e-4)


def test_only_the_rows_of_present_labels_get_a_gradient():
    features, labels, head = random_array(2, 3, 3, 6), jnp.array([3, 1]), MaskHead(CONFIG)
    variables = random_variables(head, features, labels)
    gradient = jax.grad(lambda v: head.apply(v, features, labels).sum())(variables)["params"]
    touched = np.abs(gradient["kernel"]).sum(axis=0) > 0
    np.testing.assert_array_equal(touched, [False, True, False, True])
    np.testing.assert_allclose(gradient["bias"], [0, 36, 0, 36])


@pytest.mark.parametrize("head_norm", ["none", "group_norm"])
def test_outputs_are_float32_in_bfloat16(head_norm):
    config = ModelConfig(
        num_classes=3, fpn_channels=6, mask_head_dim=6, box_head_dim=7, dtype="bfloat16", head_norm=head_norm
    )
    features, labels = jnp.zeros((2, 4, 4, 6)), jnp.zeros(2, jnp.int32)
    for head, inputs in (
        (RpnHead(config), (features, jnp.ones((2, 4, 4, 1), bool))),
        (BoxHead(config), (features,)),
        (MaskHead(config), (features, labels)),
    ):
        outputs, variables = jax.eval_shape(head.init_with_output, jax.random.key(0), *inputs)
        assert {leaf.dtype for leaf in jax.tree.leaves((outputs, variables))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("form", [score_in_parts, score_by_cell])
def test_scores_of_cpus_and_gpus_equal_those_at_once(form):
    """Values and gradients of the mask head's tail; 6 RoIs are two parts of 3."""
    rng = np.random.default_rng(0)
    shapes = ((6, 5, 5, 16), (6, 8), (2, 2, 16, 8), (8,))
    inputs = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    logits, differentiate = jax.vjp(form, *inputs)
    expected, differentiate_at_once = jax.vjp(score_at_once, *inputs)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    gradient = jnp.asarray(rng.normal(size=logits.shape), jnp.float32)
    for mine, theirs in zip(differentiate(gradient), differentiate_at_once(gradient), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("form", [score_in_parts, score_by_cell])
def test_scores_of_bfloat16_are_float32(form):
    inputs = [jnp.ones(shape, jnp.bfloat16) for shape in ((3, 2, 2, 4), (3, 2), (2, 2, 4, 2), (2,))]
    logits, differentiate = jax.vjp(form, *inputs)
    assert logits.dtype == jnp.float32
    assert [x.dtype for x in differentiate(jnp.ones_like(logits))] == [jnp.bfloat16] * 4
