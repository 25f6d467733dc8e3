"""Settings that make no sense are refused where they are made, in one line with their name."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_origin, get_type_hints

import pytest

from mrcnn_jax.cli import command_line
from mrcnn_jax.config import Config, DataConfig, ModelConfig, TargetsConfig, TestConfig, TrainConfig
from mrcnn_jax.config.checks import AT_LEAST_1, UNIT, coerce, find_mismatch
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inference.predictor import override_test
from mrcnn_jax.presets import load_preset

ANY_SIGN = {"model.pixel_mean"}
MAY_BE_ZERO = {
    *("num_classes", "norm_eps", "freeze_at", "min_proposal_side", "sampling_ratio", "num_keypoints"),
    *("level_eps_in_log", "level_eps_after_log"),
    *("box_head_convs", "box_head_fcs", "mask_head_convs", "mask_head_fcs", "keypoint_head_convs"),
    *("rpn_background_iou", "roi_foreground_iou", "rpn_nms_threshold", "rpn_loss_beta", "box_loss_beta"),
    *("score_threshold", "nms_threshold", "mask_threshold", "min_detection_side", "keypoint_offset"),
    *("flip_probability", "copy_paste_probability", "repeat_threshold", "max_skip_fraction", "num_threads", "prefetch"),
    *("rate_batch_size", "momentum", "weight_decay", "warmup_steps", "warmup_factor", "decay_factor", "decay_steps"),
    *("clip_norm", "ema_decay", "seed", "eval_every", "patience", "num_pictures"),
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
        (lambda: ModelConfig(backbone_width=0), "model.backbone_width: expected 1 or more, got 0."),
        (lambda: ModelConfig(anchor_ratios=()), "model.anchor_ratios: at least one is needed."),
        (
            lambda: ModelConfig(backbone="resnext101_32x8d", backbone_width=4),
            "model.backbone_width: expected a multiple of 8 for resnext101_32x8d, got 4.",
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
        assert ModelConfig(backbone=backbone, backbone_width=width).stage_width(0) >= 1


def wrong_values() -> list[tuple[str, str, object]]:
    """A wrong value of every field that has a choice, a number or numbers: section, name, value."""
    wrong: list[tuple[str, str, object]] = []
    for section in dataclasses.fields(Config):
        for name, hint in get_type_hints(section.default_factory).items():  # without the ranges
            if get_origin(hint) is Literal:
                wrong.append((section.name, name, "batchnorm"))
            elif get_origin(hint) is tuple:
                wrong.append((section.name, name, ("many",)))
            elif hint in (int, float):
                wrong.append((section.name, name, "many"))
    return wrong


@pytest.mark.parametrize(("section", "name", "value"), wrong_values())
def test_wrong_values_are_refused_by_name_from_file_command_line_and_override(
    section: str, name: str, value: object, tmp_path: Path
) -> None:
    config = getattr(Config(), section)
    file = tmp_path / "preset.py"
    kind = type(config).__name__
    file.write_text(
        f"from mrcnn_jax.config import Config, {kind}\nconfig = Config({section}={kind}({name}={value!r}))\n"
    )
    with pytest.raises(ConfigError, match=rf"{section}\.{name}: expected .+, got .*(batchnorm|many)"):
        load_preset(file)
    arguments = dataclasses.make_dataclass("Arguments", [(section, type(config), dataclasses.field(default=config))])
    option = f"--{section}.{name.replace('_', '-')}"
    typed = value[0] if isinstance(value, tuple) else value
    with pytest.raises(ConfigError) as caught:
        command_line.parse(arguments(), "Tries.", [option, str(typed)])
    assert option in str(caught.value) and str(typed) in str(caught.value)
    if section == "test":
        with pytest.raises(ConfigError, match=rf"test\.{name}: expected .+, got .*(batchnorm|many)"):
            override_test(config, {name: value})


@pytest.mark.parametrize(
    ("hint", "value", "coerced", "mismatch"),
    [
        (int, 3.0, 3, ""),
        (int, 3.5, 3.5, "a whole number"),
        (int, True, True, "a whole number"),
        (float, 3, 3.0, ""),
        (float, float("inf"), float("inf"), "a finite number"),
        (bool, 1, 1, "True or False"),
        (str, 1, 1, "a value of type str"),
        (Literal["a", "b"], "b", "b", ""),
        (Literal["a", "b"], None, None, "one of a, b"),
        (Literal[1, 32], 32.0, 32.0, "one of 1, 32"),
        (tuple[int, ...], [1, 2], (1, 2), ""),
        (tuple[int, ...], (), (), ""),
        (tuple[float, float], [1, 2], (1.0, 2.0), ""),
        (tuple[float, float], [1], (1.0,), "2 numbers"),
        (tuple[tuple[int, int], ...], [[64, 96]], ((64, 96),), ""),
        (tuple[tuple[int, int], ...], [64, 96], (64, 96), "canvases such as ((800, 1344),)"),
        (Annotated[float, UNIT], 2, 2.0, "0 to 1"),
        (Annotated[float, UNIT], float("nan"), float("nan"), "0 to 1"),
        (Annotated[tuple[int, ...], AT_LEAST_1], [1, 0], (1, 0), "1 or more"),
    ],
)
def test_values_are_coerced_without_loss_and_compared_with_their_annotation(hint, value, coerced, mismatch) -> None:
    found = coerce(hint, value)
    assert found == coerced or found != found
    assert type(found) is type(coerced) and find_mismatch(hint, found) == mismatch
