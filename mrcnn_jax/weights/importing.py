"""Importing published checkpoints: reads a file, recognises its model, maps its arrays and accounts for each."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.named_leaves import named_leaves, replace_leaves
from mrcnn_jax.weights import detectron2, torchvision
from mrcnn_jax.weights.families import Arrays, Family, Recognised
from mrcnn_jax.weights.files import read_state_dict
from mrcnn_jax.weights.mapping import Mapped, advise, apply_rows

FAMILIES = (torchvision.FAMILY, detectron2.FAMILY)
MAX_PROBLEMS = 40
"""Number of problems that an error lists; any others are only counted."""


class UnknownNames(DataError):
    """The array names do not identify a known family of detectors."""


@dataclass(frozen=True)
class WeightsFile:
    """A checkpoint file of a known family."""

    path: Path
    format: str
    family: Family
    arrays: Arrays
    """Arrays by their current names."""
    recognised: Recognised


def open_weights_file(path: Path, family_name: str = "") -> WeightsFile:
    """Reads a checkpoint and recognises its model.

    `family_name` (torchvision, detectron2) overrides the detected family. Raises DataError if the file cannot be read
    or recognised, and ConfigError if the family is unknown.
    """
    checkpoint = read_state_dict(path)
    family = _find_family(path, checkpoint.arrays, family_name)
    arrays = family.rename(checkpoint.arrays)
    try:
        return WeightsFile(path, checkpoint.format, family, arrays, family.recognise(arrays))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _find_family(path: Path, arrays: Arrays, name: str) -> Family:
    if name:
        named = [family for family in FAMILIES if family.name == name]
        if not named:
            known = ", ".join(family.name for family in FAMILIES)
            raise ConfigError(f"--source {name}: expected one of {known}.")
        return named[0]
    matching = [family for family in FAMILIES if family.matches(arrays)]
    if len(matching) != 1:
        found = " and ".join(family.name for family in matching) or "neither torchvision's nor Detectron2's detectors"
        shown = ", ".join(list(arrays)[:3])
        raise UnknownNames(f"{path}: array names match {found} ({shown}, ...). Set --source, or use another file.")
    return matching[0]


def import_variables(source: WeightsFile, model_config: ModelConfig) -> tuple[dict[str, Any], Mapped]:
    """Returns the variables (NumPy leaves) of a model, filled from the source, and how its arrays were used.

    Raises DataError that lists everything that does not fit: arrays that are missing, unexpected, mis-shaped or not
    finite, and variances that are not positive with the model's norm_eps.
    """
    template = variable_shapes(MaskRCNN(model_config))
    shapes = {name: leaf.shape for name, leaf in named_leaves(template).items()}
    rows = source.family.table(model_config, source.arrays)
    is_surplus = source.family.is_surplus
    mapped = apply_rows(rows, source.arrays, shapes, is_surplus=is_surplus, norm_eps=model_config.norm_eps)
    if mapped.problems:
        shown = "; ".join(mapped.problems[:MAX_PROBLEMS])
        more = len(mapped.problems) - MAX_PROBLEMS
        rest = f"; and {more} more" if more > 0 else ""
        raise DataError(f"{source.path} does not fit {source.recognised.name}: {shown}{rest}.{advise(mapped.problems)}")
    return replace_leaves(template, mapped.leaves), mapped


def check_sha256(path: Path, expected: str) -> None:
    """Raises DataError unless the file's SHA-256 starts with `expected`, at least 8 hexadecimal digits."""
    expected = expected.strip().lower()
    if len(expected) < 8 or set(expected) - set("0123456789abcdef"):
        raise ConfigError(f"--sha256 {expected}: expected 8 to 64 hexadecimal digits.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise DataError(f"{path} has the SHA-256 {found}, not {expected}. Download it again.")
