"""The settings of a run: completed from its data, recorded with its checkpoints, compared when it resumes."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from mrcnn_jax.categories import Category, keypoint_names
from mrcnn_jax.config import Config
from mrcnn_jax.config.renamed_fields import with_current_names
from mrcnn_jax.errors import ConfigError

Settings = dict[str, Any]
"""Flat, of JSON values: `train.batch_size`, `dataset.fingerprint`, ..."""

FIXED = (
    "model.",
    "targets.",
    "dataset.",
    "data.canvases",
    "data.short_sides",
    "data.max_side",
    "data.flip_probability",
    "data.max_objects",
    "data.mask_size",
    "data.scale_jitter",
    "data.copy_paste_probability",
    "data.repeat_threshold",
    "train.batch_size",
    "train.seed",
    "train.clip_norm",
    "train.accumulate_steps",
    "train.ema_decay",
)
"""What a run may not change when it resumes: the network, its targets, the order and content of its batches, and what
the optimizer's state consists of."""


def complete_config(
    config: Config, categories: Sequence[Category], val_categories: Sequence[Category] | None, *, num_devices: int
) -> Config:
    """The config with num_classes taken from the training data if it is 0.

    Raises ConfigError if config, training data, validation data and devices do not fit together.
    """
    if config.model.num_classes not in (0, len(categories)):
        raise ConfigError(
            f"--model.num-classes is {config.model.num_classes}, but {config.data.train} has {len(categories)} "
            "categories. Set it to 0 to take the number from the data."
        )
    if val_categories is not None and tuple(val_categories) != tuple(categories):
        raise ConfigError(f"--data.val {config.data.val} has other categories than --data.train {config.data.train}.")
    is_asked = config.model.num_keypoints or config.model.keypoint_flip or config.test.keypoint_sigmas
    num_keypoints = _count_keypoints(config.data.train, categories) if is_asked else 0
    if config.model.num_keypoints not in (0, num_keypoints):
        raise ConfigError(
            f"--model.num-keypoints is {config.model.num_keypoints}, but {config.data.train} has {num_keypoints} "
            "keypoints. Set it to that, or to 0 for a model without keypoint head."
        )
    for option, values in (
        ("--model.keypoint-flip", config.model.keypoint_flip),
        ("--test.keypoint-sigmas", config.test.keypoint_sigmas),
    ):
        if len(values) not in (0, num_keypoints):
            raise ConfigError(
                f"{option} has {len(values)} values, but {config.data.train} has {num_keypoints} keypoints. "
                "Give one for each, or none for the default."
            )
    if config.model.num_keypoints and config.data.flip_probability > 0 and not config.model.keypoint_flip:
        _check_sides(config.data.train, categories)
    batch_size = config.train.batch_size
    if batch_size % num_devices:
        below = batch_size // num_devices * num_devices
        valid = f"{below} or {below + num_devices}" if below else f"{num_devices}"
        raise ConfigError(
            f"--train.batch-size {batch_size} does not divide by {num_devices} devices. Nearest: {valid}."
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=len(categories)))


def _count_keypoints(name: str, categories: Sequence[Category]) -> int:
    try:
        return len(keypoint_names(categories))
    except ValueError:
        raise ConfigError(f"{name}: its categories have different keypoints. Prepare one of them alone.") from None


def _check_sides(name: str, categories: Sequence[Category]) -> None:
    """ConfigError if the names of keypoints do not say which is left and which is right, as a flip has to know."""
    names = keypoint_names(categories)
    if len(names) > 1 and not any("left" in keypoint.lower() for keypoint in names):
        raise ConfigError(
            f"{name}: no keypoint is named left or right ({', '.join(names[:3])}, ...), so flips cannot exchange them. "
            "Give --model.keypoint-flip, the index of each one's counterpart, or --data.flip-probability 0."
        )


def run_settings(config: Config, *, fingerprint: str, num_records: int) -> Settings:
    """Everything that a checkpoint records of its run: the config and which training data it was."""
    sections = json.loads(json.dumps(dataclasses.asdict(config)))  # tuples become lists, as when read back
    settings = {f"{section}.{name}": value for section, fields in sections.items() for name, value in fields.items()}
    return settings | {"dataset.fingerprint": fingerprint, "dataset.num_records": num_records}


def check_agreement(settings: Sequence[Settings]) -> None:
    """ConfigError if the processes of a run have different settings or data; paths may differ."""
    first = settings[0]
    for index, other in enumerate(settings):
        if changed := _differences(first, other, [name for name in first if name not in ("data.train", "data.val")]):
            raise ConfigError(
                f"Processes 0 and {index} have different settings: {changed}. Start all with the same command and data."
            )


def check_settings(recorded: Settings, current: Settings, where: str) -> None:
    """ConfigError if a setting that must stay differs between the checkpoint `where` and this run."""
    defaults = run_settings(Config(), fingerprint="", num_records=0)
    # Runs from before a field existed had what is its default now.
    recorded = {name: defaults[name] for name in current if name in defaults} | with_current_names(recorded)
    if changed := _differences(recorded, current, [name for name in {*recorded, *current} if name.startswith(FIXED)]):
        raise ConfigError(f"{where} was made with other settings: {changed}. Restore them or use a new --workdir.")


def _differences(old: Settings, new: Settings, names: Iterable[str]) -> str:
    """Those of the named settings that differ, as `name old -> new; ...`."""
    return "; ".join(
        f"{name} {old.get(name, 'unset')} -> {new.get(name, 'unset')}"
        for name in sorted(names)
        if old.get(name) != new.get(name)
    )
