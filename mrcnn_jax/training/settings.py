"""The settings of a run: they are completed from its data, stored with checkpoints, and compared when it resumes."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, get_type_hints

from mrcnn_jax.categories import Category, keypoint_names
from mrcnn_jax.config import Config
from mrcnn_jax.config.checks import coerce
from mrcnn_jax.config.renamed_fields import with_current_names
from mrcnn_jax.errors import ConfigError

Settings = dict[str, Any]
"""JSON values by flat names such as `train.batch_size` and `dataset.fingerprint`."""

CATEGORIES = "categories"
"""Name of the setting that lists the classes of the training data as JSON objects."""

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
    "train.best_by",
)
"""Settings, or beginnings of their names, that must not change when a run resumes: the network, its targets, the order
and content of its batches, the structure of the optimizer's state, and the meaning of the recorded scores."""


def complete_config(config: Config, categories: Sequence[Category], *, num_devices: int) -> Config:
    """Returns the config with num_classes taken from the training data if it is 0.

    Raises ConfigError if the config, training data and devices do not match.
    """
    if config.model.num_classes not in (0, len(categories)):
        raise ConfigError(
            f"--model.num-classes is {config.model.num_classes}, but {config.data.train} has {len(categories)} "
            "categories. Set it to 0 to take the number from the data."
        )
    is_asked = config.model.num_keypoints or config.model.keypoint_flip or config.test.keypoint_sigmas
    num_keypoints = _count_keypoints(config.data.train, categories) if is_asked else 0
    if config.model.num_keypoints not in (0, num_keypoints):
        raise ConfigError(
            f"--model.num-keypoints is {config.model.num_keypoints}, but {config.data.train} has {num_keypoints} "
            f"keypoints. Set it to {num_keypoints}, or to 0 for a model without a keypoint head."
        )
    for option, values in (
        ("--model.keypoint-flip", config.model.keypoint_flip),
        ("--test.keypoint-sigmas", config.test.keypoint_sigmas),
    ):
        if len(values) not in (0, num_keypoints):
            raise ConfigError(
                f"{option} has {len(values)} values, but {config.data.train} has {num_keypoints} keypoints. "
                "Give one value per keypoint, or none for the default."
            )
    if config.model.num_keypoints and config.data.flip_probability > 0 and not config.model.keypoint_flip:
        _check_sides(config.data.train, categories)
    batch_size = config.train.batch_size
    if batch_size % num_devices:
        below = batch_size // num_devices * num_devices
        valid = f"{below} or {below + num_devices}" if below else f"{num_devices}"
        raise ConfigError(f"--train.batch-size {batch_size} is not divisible by {num_devices} devices. Use {valid}.")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=len(categories)))


def _count_keypoints(name: str, categories: Sequence[Category]) -> int:
    try:
        return len(keypoint_names(categories))
    except ValueError:
        raise ConfigError(f"{name}: its categories have different keypoints. Prepare only one category.") from None


def _check_sides(name: str, categories: Sequence[Category]) -> None:
    """Raises ConfigError if the names of several keypoints do not contain left and right, which a flip exchanges."""
    names = keypoint_names(categories)
    if len(names) > 1 and not any("left" in keypoint.lower() for keypoint in names):
        raise ConfigError(
            f"{name}: no keypoint is named left or right ({', '.join(names[:3])}, ...), so flips cannot exchange them. "
            "Set --model.keypoint-flip to the index of each one's counterpart, or --data.flip-probability to 0."
        )


def run_settings(
    config: Config, *, fingerprint: str, num_records: int, categories: Sequence[Category] = ()
) -> Settings:
    """Returns the settings that a checkpoint records: the config, the identity of the training data, and its classes.

    The identity is compared when a run resumes. The categories are recorded for weights that are written later.
    """
    sections = json.loads(json.dumps(dataclasses.asdict(config)))  # tuples become lists, as after reading back
    settings = {f"{section}.{name}": value for section, fields in sections.items() for name, value in fields.items()}
    settings |= {"dataset.fingerprint": fingerprint, "dataset.num_records": num_records}
    return settings | {CATEGORIES: json.loads(json.dumps([dataclasses.asdict(category) for category in categories]))}


def recorded_config(settings: Settings) -> Config:
    """Returns the config of recorded settings; fields that are younger than the record have their defaults.

    Raises ConfigError if this version does not know a field or its value.
    """
    sections: dict[str, dict[str, Any]] = {field.name: {} for field in dataclasses.fields(Config)}
    try:
        for name, value in with_current_names(settings).items():
            section, _, field = name.partition(".")
            if section in sections:
                hint = get_type_hints(type(getattr(Config(), section)), include_extras=True)[field]
                sections[section][field] = coerce(hint, value)
        return Config(**{name: type(getattr(Config(), name))(**values) for name, values in sections.items()})
    except KeyError as error:
        raise ConfigError(f"Recorded settings contain {error}, which this version does not have. Update it.") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Recorded settings are not valid in this version: {error}") from error


def recorded_categories(settings: Settings) -> tuple[Category, ...]:
    """Returns the categories of recorded settings; () if an earlier version recorded none."""
    hints = get_type_hints(Category, include_extras=True)
    return tuple(
        Category(**{name: coerce(hints[name], value) for name, value in item.items()})
        for item in settings.get(CATEGORIES, ())
    )


def check_agreement(settings: Sequence[Settings]) -> None:
    """Raises ConfigError if the processes of a run have different settings or data; paths may differ."""
    first = settings[0]
    for index, other in enumerate(settings):
        if changed := _differences(first, other, [name for name in first if name not in ("data.train", "data.val")]):
            raise ConfigError(
                f"Processes 0 and {index} have different settings: {changed}. Start all processes with the same "
                "command and data."
            )


def check_settings(recorded: Settings, current: Settings, where: str) -> None:
    """Raises ConfigError if a setting that must not change differs between the checkpoint `where` and this run."""
    defaults = run_settings(Config(), fingerprint="", num_records=0)
    # Runs that are older than a field used the value that is now its default.
    recorded = {name: defaults[name] for name in current if name in defaults} | with_current_names(recorded)
    if changed := _differences(recorded, current, [name for name in {*recorded, *current} if name.startswith(FIXED)]):
        raise ConfigError(
            f"{where} was made with other settings: {changed}. Restore these settings or use a new --workdir."
        )


def _differences(old: Settings, new: Settings, names: Iterable[str]) -> str:
    """Returns the named settings that differ, as `name old -> new; ...`."""
    return "; ".join(
        f"{name} {old.get(name, 'unset')} -> {new.get(name, 'unset')}"
        for name in sorted(names)
        if old.get(name) != new.get(name)
    )
