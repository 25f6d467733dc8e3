"""Importing published checkpoints: reads a file, recognises its model, maps its arrays and accounts for each."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.named_leaves import named_leaves, replace_leaves
from mrcnn_jax.weights import detectron2, mmdetection, torchvision
from mrcnn_jax.weights.detectron2_settings import read_settings
from mrcnn_jax.weights.families import Arrays, Family, Hints, Recognised
from mrcnn_jax.weights.files import read_state_dict
from mrcnn_jax.weights.mapping import Mapped, advise, apply_rows

FAMILIES = (torchvision.FAMILY, detectron2.FAMILY, mmdetection.FAMILY)
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
    notes: tuple[str, ...] = ()
    """Sentences about which weights of the file were taken and what was left out."""


def open_weights_file(
    path: Path, family_name: str = "", *, take: str = "auto", input_format: Literal["", "rgb", "bgr"] = ""
) -> WeightsFile:
    """Reads a checkpoint and recognises its model.

    `family_name` (torchvision, detectron2, mmdetection) overrides the detected family, `input_format` the order of the
    channels that the file implies. `take` chooses the averaged weights (ema) or those of the last step (model). Raises
    DataError if the file cannot be read or recognised, and ConfigError if the family is unknown.
    """
    checkpoint = read_state_dict(path, take)
    family, arrays = _find_family(path, checkpoint.arrays, family_name)
    arrays = family.rename(arrays)
    settings = read_settings(path) if family is detectron2.FAMILY else {}
    hints = Hints(input_format, settings, checkpoint.beside.get("meta", {}), checkpoint.beside.get("args", {}))
    try:
        recognised = family.recognise(arrays, hints)
    except (DataError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # The values of a foreign configuration may have any type.
        raise DataError(f"{path}: {error}") from error
    return WeightsFile(path, checkpoint.format, family, arrays, recognised, checkpoint.notes)


def _find_family(path: Path, arrays: Mapping[str, np.ndarray], name: str) -> tuple[Family, Arrays]:
    """Returns the family, and the arrays without a segment that all names start with, such as `detector.`."""
    if name:
        named = [family for family in FAMILIES if family.name == name]
        if not named:
            known = ", ".join(family.name for family in FAMILIES)
            raise ConfigError(f"--source {name}: expected one of {known}.")
    candidates = named if name else list(FAMILIES)
    first, _, rest = next(iter(arrays)).partition(".")
    is_wrapped = bool(rest) and all(key.startswith(f"{first}.") for key in arrays)
    inner = {key.removeprefix(f"{first}."): array for key, array in arrays.items()} if is_wrapped else {}
    for names in (arrays, inner):
        matching = [family for family in candidates if family.matches(names)]
        if len(matching) == 1:
            return matching[0], names
    if name:
        return named[0], arrays
    families = [family.name for family in candidates if family.matches(arrays)]
    found = " and ".join(families) or "no detector of torchvision, Detectron2 or MMDetection"
    shown = ", ".join(list(arrays)[:3])
    raise UnknownNames(f"{path}: array names match {found} ({shown}, ...). {_advise_on_names(arrays)}")


def _advise_on_names(arrays: Arrays) -> str:
    """Returns what to do about a file that is no detector."""
    heads = ("conv1.weight", "stem.conv1.weight", "conv1_w", "embedder.embedder.convolution.weight")
    if any(name == head or name.endswith(f".{head}") for name in arrays for head in heads):
        return "If it is a backbone, train from it: --train.init-from FILE."
    starts = Counter(name.partition(".")[0] for name in arrays).most_common(3)
    listed = ", ".join(f"{count} with `{start}`" for start, count in starts)
    return f"Names start: {listed}. Save the detector's own state dict."


def import_variables(source: WeightsFile, model_config: ModelConfig) -> tuple[dict[str, Any], Mapped]:
    """Returns the variables (NumPy leaves) of a model, filled from the source, and how its arrays were used.

    Raises DataError that lists everything that does not fit: arrays that are missing, unexpected, mis-shaped or not
    finite, and variances that are not positive with the model's norm_eps.
    """
    template = variable_shapes(MaskRCNN(model_config))
    shapes = {name: leaf.shape for name, leaf in named_leaves(template).items()}
    rows = source.family.table(model_config, source.arrays, source.recognised.input_format == "bgr")
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
