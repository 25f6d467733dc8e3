"""Starting from other weights: whatever has the name and shape of one of our leaves is taken, the rest stays fresh.

Where the weights were trained on other classes, layers with outputs for each class are re-initialised but for the
classes of the same name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.named_leaves import host_copies, named_leaves, replace_leaves
from mrcnn_jax.weights.class_rows import adopt_rows, shared_classes
from mrcnn_jax.weights.coco_categories import default_categories
from mrcnn_jax.weights.folder import load_weights
from mrcnn_jax.weights.imagenet_backbone import read_backbone
from mrcnn_jax.weights.importing import UnknownNames, import_variables, open_weights_file

CONVENTIONS = ("stride_in_1x1", "pixel_mean", "pixel_std")
"""Fields of ModelConfig in which starting weights and model have to agree."""


@dataclass(frozen=True)
class InitReport:
    """Names of leaves: what became of each one of ours and of the source's."""

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    by_class: tuple[str, ...] = ()
    """Leaves with outputs for each class, of which only those of the same name were taken."""
    new_classes: tuple[str, ...] = ()
    """Classes of ours that the source does not name."""

    def describe(self, source: str) -> str:
        """One paragraph for people."""
        total = len(self.taken) + len(self.fresh) + len(self.by_class)
        text = f"Started from {source}: {len(self.taken)} of {total} arrays taken"
        others = (*self.taken, *self.fresh)
        if self.by_class:
            layers = ", ".join(_modules(self.by_class, others))
            text += f"; taken for classes of the same name: {layers}, with new {', '.join(self.new_classes) or 'order'}"
        if self.fresh:
            text += f"; re-initialised: {', '.join(_modules(self.fresh, (*self.taken, *self.by_class)))}"
        if self.unused:
            text += f"; not used: {', '.join(_modules(self.unused, (*self.taken, *self.by_class)))}"
        return f"{text}."


def initialise(
    variables: Mapping[str, Any], source: str, model_config: ModelConfig, classes: Sequence[str] = ()
) -> tuple[dict[str, Any], InitReport]:
    """`variables` with the leaves of `source` where name and shape agree, and what was done.

    `source` is a weights folder, a workdir, or a file: a detector's checkpoint or an ImageNet backbone. `classes` are
    the names of the model's, without background; () takes layers with outputs for each class wherever their shape fits.
    DataError if the source cannot be read or does not fit anywhere.
    """
    given, their_classes = _read(Path(source), model_config)
    ours = named_leaves(dict(variables))
    differ = bool(classes) and bool(their_classes) and tuple(classes) != their_classes
    adopted = adopt_rows(host_copies(dict(variables)), given, classes, their_classes) if differ else {}
    shares_classes = len(shared_classes(classes, their_classes)) > 1
    taken = tuple(
        name for name in ours if name in given and given[name].shape == ours[name].shape and name not in adopted
    )
    if not taken:
        raise DataError(f"{source}: no array has the name and shape of one of this model's ({model_config.backbone}).")
    by_class = tuple(adopted) if shares_classes else ()
    report = InitReport(
        taken,
        tuple(name for name in ours if name not in taken and name not in by_class),
        tuple(name for name in given if name not in taken and name not in by_class),
        by_class,
        tuple(name for name in classes if name not in their_classes) if by_class else (),
    )
    chosen = {name: given[name] if name in taken else adopted.get(name, ours[name]) for name in ours}
    return replace_leaves(dict(variables), chosen), report


def _read(path: Path, model_config: ModelConfig) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """The leaves of the source, and the names of its classes where they are known."""
    if not path.is_file():
        weights = load_weights(path)
        _check_conventions(path, weights.model, model_config)
        return host_copies(dict(weights.variables)), tuple(category.name for category in weights.categories)
    try:
        found = open_weights_file(path)
    except UnknownNames:
        return read_backbone(path, model_config), ()
    theirs = found.recognised.model
    _check_conventions(path, theirs, model_config)
    categories = default_categories(theirs.num_classes, theirs.num_keypoints)
    names = tuple(category.name for category in categories if not category.name.startswith("class "))
    # The norms that their variances go into are ours.
    return named_leaves(import_variables(found, replace(theirs, norm_eps=model_config.norm_eps))[0]), names


def _check_conventions(path: Path, theirs: ModelConfig, ours: ModelConfig) -> None:
    """ConfigError where the same parameters would compute something else in this model, without a trace in shapes."""
    different = [name for name in CONVENTIONS if getattr(theirs, name) != getattr(ours, name)]
    if different:
        stated = "; ".join(f"model.{name} is {getattr(ours, name)}, not {getattr(theirs, name)}" for name in different)
        raise ConfigError(f"{path} was trained with other conventions: {stated}. Set them to start from it.")


def _modules(names: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    """The largest modules that hold `names` and none of `others`, such as `rpn_head` or `backbone/layer4_0`."""
    of_others = {prefix for name in others for prefix in _prefixes(name)}
    modules = (next((p for p in _prefixes(name) if p not in of_others), name) for name in names)
    return list(dict.fromkeys(modules))


def _prefixes(name: str) -> list[str]:
    """`params/a/b/kernel` -> `a`, `a/b`, `a/b/kernel`: from the largest module on, without the collection."""
    parts = name.split("/")[1:]
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
