"""What the data of a run lacks or loses, found before its first step."""

import dataclasses

import numpy as np

from mrcnn_jax import command_names
from mrcnn_jax.config import Config
from mrcnn_jax.config.depth_setting import AUTO_DEPTH
from mrcnn_jax.data.dataset import Dataset, open_dataset
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.evaluation.category_matching import match_categories
from mrcnn_jax.training.lost_objects import describe_lost_objects


def open_data(config: Config) -> tuple[Dataset, Dataset | None]:
    """Returns the training data and, if named, the validation data; ConfigError if no training data is named."""
    if not config.data.train:
        prepare = command_names.typed("prepare")
        raise ConfigError(f"No training data is named. Pass a folder made by {prepare}: --data.train DIR.")
    return open_dataset(config.data.train), open_dataset(config.data.val) if config.data.val else None


def check_data(config: Config, train_data: Dataset, val_data: Dataset | None) -> tuple[Config, list[str]]:
    """Returns the config with the depth of the training data, and one line for each thing that will be left out.

    Raises DataError or ConfigError if there is nothing to learn, or if training and validation data do not fit.
    """
    check_score(config, val_data)
    lines = check_objects(config, train_data)
    lines += describe_lost_objects(config, train_data)
    lines += check_masks(config, train_data, val_data)
    if val_data is not None:
        matched = match_categories(train_data.categories, val_data.categories, ("training data", "validation data"))
        lines += [matched.note] * bool(matched.note)
        if val_data.depth != train_data.depth and len(val_data):
            raise ConfigError(
                f"{config.data.train} was prepared with --depth {train_data.depth}, {config.data.val} with --depth "
                f"{val_data.depth}. Prepare both with the same."
            )
    if config.test.depth == AUTO_DEPTH:
        config = dataclasses.replace(config, test=dataclasses.replace(config.test, depth=train_data.depth))
    return config, lines


def check_score(config: Config, val_data: Dataset | None) -> None:
    """Raises ConfigError if the validation data or the model cannot provide what the options of `train` ask for."""
    train, val = config.train, config.data.val
    asked = {
        "--train.patience": train.patience > 0,
        "--train.validation-loss": train.validation_loss,
        f"--train.best-by {train.best_by}": train.best_by != "auto",
    }
    for option in (option for option, is_set in asked.items() if is_set):
        if val_data is None:
            raise ConfigError(f"{option} needs validation data. Pass a prepared folder: --data.val DIR.")
        if val_data.num_objects is not None and val_data.num_objects.sum() == 0:
            raise ConfigError(f"{option} needs objects in the validation data, but {val} has none.")
    if train.best_by == "mask_ap" and (not config.model.masks or (val_data is not None and val_data.has_no_masks)):
        raise ConfigError(f"--train.best-by mask_ap: the model or {val} has no masks. Use box_ap.")
    if train.best_by == "keypoint_ap" and not config.model.num_keypoints:
        raise ConfigError("--train.best-by keypoint_ap: the model has no keypoint head. Set --model.num-keypoints.")


def check_objects(config: Config, train_data: Dataset) -> list[str]:
    """Returns one line if some images have more objects than data.max_objects.

    Raises DataError if there is no object to learn from.
    """
    if len(train_data) == 0:
        raise DataError(f"{config.data.train} has no images.")
    counts = train_data.num_objects
    if counts is None:  # older folders do not contain them
        return []
    if counts.sum() == 0:
        crowds = train_data.num_crowds
        reason = (
            f"all {crowds} objects are crowds (iscrowd 1), which are not learned. If they are ordinary objects, "
            "prepare the data with --crowds objects"
            if crowds
            else "no image has an object"
        )
        raise DataError(f"{config.data.train}: there is nothing to learn from, since {reason}.")
    num_beyond = int(np.maximum(counts - config.data.max_objects, 0).sum())
    if not num_beyond:
        return []
    num_images = int((counts > config.data.max_objects).sum())
    return [
        f"{config.data.train}: {num_images} images have more than {config.data.max_objects} objects; the smallest are "
        f"left out, {num_beyond} of {counts.sum()}. --data.max-objects {counts.max()} keeps all, with more memory."
    ]


def check_masks(config: Config, train_data: Dataset, val_data: Dataset | None) -> list[str]:
    """Returns one line for each data set that has objects without a mask; none for a model without a mask head.

    Raises ConfigError if no object of the training data has a mask, since the mask head would stay untrained.
    """
    if not config.model.masks:
        return []
    if train_data.has_no_masks:
        raise ConfigError(
            f"{config.data.train}: none of its {train_data.num_without_mask} objects has a mask, so a mask head cannot "
            "be trained. Pass --model.no-masks for a model without one."
        )
    not_scored = val_data is not None and val_data.has_no_masks
    in_val = "Masks are not scored, and box AP decides which step is best" if not_scored else "Mask AP ignores them"
    lines = []
    for name, data, effect in (
        (config.data.train, train_data, "They train boxes and classes, but not masks"),
        (config.data.val, val_data, in_val),
    ):
        if data is not None and data.num_without_mask:
            total = data.num_without_mask + (data.num_with_mask or 0)
            lines.append(f"{name}: {data.num_without_mask} of {total} objects have no mask. {effect}.")
    return lines
