"""Settings that make no sense are refused where they are made, in one line with their name."""

import dataclasses
from dataclasses import replace

import pytest

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig

ANY_SIGN = {"model.pixel_mean"}
MAY_BE_ZERO = {
    *("num_classes", "norm_eps", "freeze_at", "min_proposal_side", "sampling_ratio", "num_keypoints"),
    *("level_eps_in_log", "level_eps_after_log"),
    *("box_head_convs", "box_head_fcs", "mask_head_convs", "mask_head_fcs", "keypoint_head_convs"),
    *("rpn_background_iou", "roi_foreground_iou", "rpn_nms_threshold", "rpn_loss_beta", "box_loss_beta"),
    *("score_threshold", "nms_threshold", "mask_threshold", "min_detection_side", "keypoint_offset"),
    *("flip_probability", "copy_paste_probability", "repeat_threshold", "max_skip_fraction", "num_threads", "prefetch"),
    *("rate_batch_size", "momentum", "weight_decay", "warmup_steps", "warmup_factor", "decay_factor", "decay_steps"),
    *("clip_norm", "ema_decay", "seed", "eval_every", "num_pictures"),
}
SHARES = {
    "targets": ("rpn_foreground_iou", "roi_foreground_iou", "rpn_nms_threshold", "roi_foreground_fraction"),
    "test": ("rpn_nms_threshold", "score_threshold", "nms_threshold", "mask_threshold"),
    "data": ("flip_probability", "copy_paste_probability", "repeat_threshold", "max_skip_fraction"),
    "train": ("momentum", "ema_decay", "warmup_factor", "decay_factor"),
}


def numbers() -> list[tuple[str, str]]:
    """Section and name of every field that is a number or some numbers."""
    found = []
    for section in dataclasses.fields(Config):
        for field in dataclasses.fields(getattr(Config(), section.name)):
            value = getattr(getattr(Config(), section.name), field.name)
            first = value[0] if isinstance(value, tuple) and value else value
            if isinstance(first, int | float) and not isinstance(first, bool):
                found.append((section.name, field.name))
    return found


def change(section: str, name: str, number: float) -> None:
    """Makes the section with this number as the field's value, or as all of its values."""
    config = getattr(Config(), section)
    value = getattr(config, name)
    is_tuple = isinstance(value, tuple)
    kind = type(value[0] if is_tuple else value)
    replace(config, **{name: (kind(number),) * len(value) if is_tuple else kind(number)})


def test_there_are_many() -> None:
    assert len(numbers()) > 80


@pytest.mark.parametrize(("section", "name"), numbers())
def test_negative_numbers_are_refused(section: str, name: str) -> None:
    if f"{section}.{name}" in ANY_SIGN:
        return change(section, name, -1)
    with pytest.raises(ValueError, match=rf"^{section}\.") as caught:
        change(section, name, -1)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("section", "name"), numbers())
def test_zero_is_refused_where_it_means_nothing(section: str, name: str) -> None:
    if name in MAY_BE_ZERO or f"{section}.{name}" in ANY_SIGN:
        return change(section, name, 0)
    with pytest.raises(ValueError, match=rf"^{section}\."):
        change(section, name, 0)


@pytest.mark.parametrize(("section", "name"), [(section, name) for section, names in SHARES.items() for name in names])
def test_shares_end_at_one(section: str, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{section}\.{name}: expected .*1[\])]?, got 2\.0\.$"):
        change(section, name, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(body_width=0), "model.body_width: expected 1 or more, got 0."),
        (lambda: ModelConfig(anchor_ratios=()), "model.anchor_ratios: at least one is needed."),
        (
            lambda: ModelConfig(backbone="resnext101_32x8d", body_width=4),
            "model.body_width: expected a multiple of 8 for resnext101_32x8d, got 4.",
        ),
        (
            lambda: ModelConfig(pixel_std=(1.0, 0.0, 1.0)),
            "model.pixel_std: expected a positive value, got (1.0, 0.0, 1.0).",
        ),
        (lambda: TargetsConfig(rpn_samples=0), "targets.rpn_samples: expected 1 or more, got 0."),
        (lambda: TestConfig(score_threshold=float("nan")), "test.score_threshold: expected 0 to 1, got nan."),
        (lambda: DataConfig(short_sides=(640, 0)), "data.short_sides: expected 1 or more, got (640, 0)."),
        (lambda: TrainConfig(momentum=1.0), "train.momentum: expected a value in [0, 1), got 1.0."),
        (lambda: TrainConfig(decay_factor=10.0), "train.decay_factor: expected 0 to 1, got 10.0."),
    ],
)
def test_refusals(make, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def test_widths_of_resnext() -> None:
    for backbone, width in (
        ("resnext50_32x4d", 16),
        ("resnext101_32x8d", 8),
        ("resnext101_64x4d", 16),
        ("resnet50", 1),
    ):
        assert ModelConfig(backbone=backbone, body_width=width).stage_width(0) >= 1
