"""Initialising a model from other weights: leaves with equal names and shapes are taken, the others stay fresh.

If the weights were trained on other classes, layers with per-class outputs are re-initialised, except for the outputs
of classes with the same name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.config.option_text import as_options
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.named_leaves import host_copies, named_leaves, replace_leaves
from mrcnn_jax.weights.class_rows import adopt_rows, shared_classes
from mrcnn_jax.weights.coco_categories import default_categories
from mrcnn_jax.weights.folder import load_weights
from mrcnn_jax.weights.imagenet_backbone import read_backbone
from mrcnn_jax.weights.importing import UnknownNames, import_variables, open_weights_file

CONVENTIONS = ("stride_in_1x1", "pixel_mean", "pixel_std")
"""Fields of ModelConfig in which the starting weights and the model have to agree."""


@dataclass(frozen=True)
class InitReport:
    """Names of the model's and the source's leaves, by how they were used."""

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    by_class: tuple[str, ...] = ()
    """Leaves with per-class outputs, of which only those of classes with the same name were taken."""
    new_classes: tuple[str, ...] = ()
    """Classes of the model that the source does not have."""
    notes: tuple[str, ...] = ()
    """Sentences about what was assumed about the source, or left out of it."""

    def describe(self, source: str) -> str:
        """Returns a summary in one paragraph."""
        total = len(self.taken) + len(self.fresh) + len(self.by_class)
        text = f"Started from {source}: {len(self.taken)} of {total} arrays taken"
        others = (*self.taken, *self.fresh)
        if self.by_class:
            layers = ", ".join(_modules(self.by_class, others))
            text += f"; taken for classes of the same name: {layers} (new: {', '.join(self.new_classes) or 'none'})"
        if self.fresh:
            text += f"; re-initialised: {', '.join(_modules(self.fresh, (*self.taken, *self.by_class)))}"
        if self.unused:
            text += f"; not used: {', '.join(_modules(self.unused, (*self.taken, *self.by_class)))}"
        return " ".join((f"{text}.", *self.notes))


def initialise(
    variables: Mapping[str, Any], source: str, model_config: ModelConfig, classes: Sequence[str] = ()
) -> tuple[dict[str, Any], InitReport]:
    """Returns `variables` with the leaves of `source` where names and shapes agree, and a report.

    `source` is a weights folder, a workdir, or a file: a detector's checkpoint or an ImageNet backbone. `classes` are
    the names of the model's classes without background; with (), layers with per-class outputs are taken if their
    shapes fit. Raises DataError if the source cannot be read or no array fits, and ConfigError if it was trained with
    other conventions.
    """
    given, their_classes, notes = _read(Path(source), model_config)
    ours = named_leaves(dict(variables))
    differ = bool(classes) and bool(their_classes) and tuple(classes) != their_classes
    adopted = adopt_rows(host_copies(dict(variables)), given, classes, their_classes) if differ else {}
    shares_classes = len(shared_classes(classes, their_classes)) > 1
    taken = tuple(
        name for name in ours if name in given and given[name].shape == ours[name].shape and name not in adopted
    )
    if not taken:
        raise DataError(f"{source}: no array matches this model's ({model_config.backbone}) in name and shape.")
    by_class = tuple(adopted) if shares_classes else ()
    report = InitReport(
        taken,
        tuple(name for name in ours if name not in taken and name not in by_class),
        tuple(name for name in given if name not in taken and name not in by_class),
        by_class,
        tuple(name for name in classes if name not in their_classes) if by_class else (),
        notes,
    )
    chosen = {name: given[name] if name in taken else adopted.get(name, ours[name]) for name in ours}
    return replace_leaves(dict(variables), chosen), report


def _read(path: Path, model_config: ModelConfig) -> tuple[Mapping[str, np.ndarray], tuple[str, ...], tuple[str, ...]]:
    """Returns the leaves of the source, the names of its classes if they are known, and notes."""
    if not path.is_file():
        weights = load_weights(path)
        _check_conventions(path, weights.model, model_config)
        return host_copies(dict(weights.variables)), tuple(category.name for category in weights.categories), ()
    try:
        found = open_weights_file(path)
    except UnknownNames:
        return read_backbone(path, model_config), (), ()
    theirs = found.recognised.model
    _check_conventions(path, theirs, model_config)
    categories = default_categories(theirs.num_classes, theirs.num_keypoints, found.recognised.class_names)
    names = tuple(category.name for category in categories if not category.name.startswith("class "))
    notes = [note for note in found.recognised.notes if "norm-eps" not in note]
    if any("--input-format" in note for note in notes):
        notes.append("To set these options, import the file first and start from the weights folder.")
    # The variances are used by our norms, so our eps decides whether they are valid.
    variables = import_variables(found, replace(theirs, norm_eps=model_config.norm_eps))[0]
    return named_leaves(variables), names, (*found.notes, *notes)


def _check_conventions(path: Path, theirs: ModelConfig, ours: ModelConfig) -> None:
    """Raises ConfigError if the parameters would compute something else in this model, which shapes do not reveal."""
    different = [name for name in CONVENTIONS if getattr(theirs, name) != getattr(ours, name)]
    if different:
        stated = "; ".join(f"model.{name} is {getattr(ours, name)}, not {getattr(theirs, name)}" for name in different)
        options = as_options("model", theirs, different)
        raise ConfigError(f"{path} was trained with other conventions: {stated}. To start from it, add {options}.")


def _modules(names: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    """Returns the largest modules with `names` and none of `others`, such as `rpn_head` or `backbone/layer4_0`."""
    of_others = {prefix for name in others for prefix in _prefixes(name)}
    modules = (next((p for p in _prefixes(name) if p not in of_others), name) for name in names)
    return list(dict.fromkeys(modules))


def _prefixes(name: str) -> list[str]:
    """Returns `a`, `a/b`, `a/b/kernel` for `params/a/b/kernel`: the enclosing modules without the collection."""
    parts = name.split("/")[1:]
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
