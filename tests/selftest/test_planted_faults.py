"""The self-test finds what is planted: every check passes on our own code, and fails where one thing is broken."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import pytest

from mrcnn_jax.models import convolution, layers
from mrcnn_jax.ops import boxes, losses, masks, matching, nms, roi_align
from mrcnn_jax.selftest.box_checks import check_deltas, check_matching, check_nms, check_top_k
from mrcnn_jax.selftest.convolution_checks import Form, check_convolutions
from mrcnn_jax.selftest.findings import Check, Finding, Setting
from mrcnn_jax.selftest.layer_checks import check_layers
from mrcnn_jax.selftest.loss_checks import check_losses
from mrcnn_jax.selftest.roi_checks import Pooling, check_mask_targets, check_roi_align
from mrcnn_jax.selftest.step_checks import check_step

SMALL = Setting(canvas=(96, 128), num_rois=32, num_slots=8)
FORM = Form("3x3 stride 2", 16, 4, 6, stride=2)
POOLING = Pooling("7x7", 7, 2, False, share=4, channels=4)


def shift_by_half_a_cell(original: Callable) -> Callable:
    return lambda *inputs, aligned, **options: original(*inputs, aligned=not aligned, **options)


def mirror_kernel_gradient(original: Callable) -> Callable:
    def convolve(x: jax.Array, kernel: jax.Array, **options: int) -> jax.Array:
        @jax.custom_vjp
        def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return original(x, kernel, **options)

        def backward(pull: Callable, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
            dx, dkernel = pull(gradient)
            return dx, dkernel[::-1]

        run.defvjp(lambda x, kernel: jax.vjp(lambda *pair: original(*pair, **options), x, kernel), backward)
        return run(x, kernel)

    return convolve


def sum_bias_in_bfloat16(_: Callable) -> Callable:
    return lambda x, bias: x + jnp.broadcast_to(bias, x.shape)


def last_of_equal_boxes_first(original: Callable) -> Callable:
    def suppress(*inputs: jax.Array, **options: float) -> nms.Kept:
        kept = original(*(part[::-1] for part in inputs), **options)
        return kept._replace(indices=jnp.where(kept.valid, len(inputs[0]) - 1 - kept.indices, 0))

    return suppress


def last_of_equal_values_first(original: Callable) -> Callable:
    def top_k(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        top, index = original(values[::-1], count)
        return top, len(values) - 1 - index

    return top_k


def last_of_equal_objects_first(original: Callable) -> Callable:
    def match(boxes: jax.Array, valid: jax.Array, objects: jax.Array, used: jax.Array, **options: float) -> object:
        matches = original(boxes, valid, objects[::-1], used[::-1], **options)
        return matches._replace(matched_gt=len(objects) - 1 - matches.matched_gt)

    return match


def divide_by_all_rows(_: Callable) -> Callable:
    return lambda values, valid, count=None: jnp.where(valid, values, 0.0).sum() / valid.size


def swap_weights(original: Callable) -> Callable:
    return lambda deltas, anchors, weights: original(deltas, anchors, weights[::-1])


def transpose_last_axes(original: Callable) -> Callable:
    return lambda *inputs, **options: original(*inputs, **options).swapaxes(-1, -2)


def count_pixels(_: Callable) -> Callable:
    """Boxes that own their last row and column, as in old conventions."""

    def compute(boxes: jax.Array, others: jax.Array) -> jax.Array:
        low = jnp.maximum(boxes[:, None, :2], others[None, :, :2])
        high = jnp.minimum(boxes[:, None, 2:], others[None, :, 2:])
        overlap = jnp.prod(jnp.maximum(high - low + 1, 0), axis=-1)
        areas = [jnp.prod(part[:, 2:] - part[:, :2] + 1, axis=-1) for part in (boxes, others)]
        return overlap / (areas[0][:, None] + areas[1][None] - overlap)

    return compute


def one_form(setting: Setting) -> Iterator[Finding]:
    return check_convolutions(setting, (FORM,))


def bfloat16_form(setting: Setting) -> Iterator[Finding]:
    return check_convolutions(setting, (Form("3x3", 1, 3, 4, dtype="bfloat16"),))


def one_pooling(setting: Setting) -> Iterator[Finding]:
    return check_roi_align(setting, (POOLING,))


@pytest.mark.parametrize(
    ("check", "module", "name", "plant", "failing"),
    [
        (one_pooling, roi_align, "align_rois", shift_by_half_a_cell, {"RoIAlign 7x7", "RoIAlign 7x7: gradient"}),
        (
            one_form,
            layers,
            "convolve",
            mirror_kernel_gradient,
            {"convolution 3x3 stride 2: kernel gradient"},
        ),
        (
            bfloat16_form,
            layers,
            "add_bias",
            sum_bias_in_bfloat16,
            {"convolution 3x3, bfloat16: bias gradient"},
        ),
        (check_nms, nms, "suppress_overlaps", last_of_equal_boxes_first, {"NMS, with ties"}),
        (check_top_k, jax.lax, "top_k", last_of_equal_values_first, {"top-k, with ties"}),
        (check_matching, matching, "match_boxes", last_of_equal_objects_first, {"matching: objects"}),
        (check_matching, boxes, "compute_iou", count_pixels, {"IoU"}),
        (check_deltas, boxes, "decode_boxes", swap_weights, {"box deltas: decode", "boxes: clip"}),
        (check_mask_targets, masks, "sample_mask_targets", transpose_last_axes, {"mask targets"}),
        (
            check_losses,
            losses,
            "masked_mean",
            divide_by_all_rows,
            {
                *(f"{name} loss" for name in ("class", "objectness", "keypoint", "box", "GIoU", "mask")),
                *(f"{name} loss: gradient" for name in ("class", "objectness", "keypoint", "box", "mask")),
            },
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_planted_faults_are_found(
    check: Check,
    module: object,
    name: str,
    plant: Callable,
    failing: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert failures(check) == set()
    monkeypatch.setattr(module, name, plant(getattr(module, name)))
    assert failures(check) == failing


def failures(check: Check) -> set[str]:
    return {finding.check for finding in check(SMALL) if not finding.passed}


def test_one_wrong_value_of_a_convolution_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def convolve(*inputs: jax.Array, **options: int) -> jax.Array:
        return convolution.convolve(*inputs, **options).at[0, -1, -1, 0].multiply(1.5)

    monkeypatch.setattr(layers, "convolve", convolve)
    assert "convolution 3x3 stride 2" in failures(one_form)


def test_layers_pass_and_a_wrong_group_norm_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failures(check_layers) == set()
    original = jax.lax.rsqrt
    monkeypatch.setattr(jax.lax, "rsqrt", lambda x: original(x + 1e-3))
    assert {"group norm", "frozen batch norm", "batch norm"} <= failures(check_layers)


@pytest.mark.slow
def test_a_step_passes_and_a_wrong_gradient_of_one_loss_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failures(check_step) == set()
    original = losses.class_loss

    def with_half_the_gradient(logits: jax.Array, *rest: jax.Array) -> jax.Array:
        return original(0.5 * logits + 0.5 * jax.lax.stop_gradient(logits), *rest)

    monkeypatch.setattr("mrcnn_jax.detection.box_losses.class_loss", with_half_the_gradient)
    assert failures(check_step) == {"training step: slope, heads"}
