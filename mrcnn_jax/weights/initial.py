"""Starting from other weights: whatever has the name and shape of one of our leaves is taken, the rest stays fresh."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.leaves import host_copies, named_leaves, replace_leaves
from mrcnn_jax.weights.body import read_body
from mrcnn_jax.weights.folder import load_weights
from mrcnn_jax.weights.importing import UnknownNames, import_variables, open_source

CONVENTIONS = ("stride_in_1x1", "pixel_mean", "pixel_std")
"""Fields of ModelConfig in which starting weights and model have to agree."""


@dataclass(frozen=True)
class InitReport:
    """Names of leaves: what became of each one of ours and of the source's."""

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def describe(self, source: str) -> str:
        """One paragraph for people."""
        text = f"Started from {source}: {len(self.taken)} of {len(self.taken) + len(self.fresh)} arrays taken"
        if self.fresh:
            text += f"; re-initialised: {', '.join(_modules(self.fresh, self.taken))}"
        if self.unused:
            text += f"; not used: {', '.join(_modules(self.unused, self.taken))}"
        return f"{text}."


def initialise(variables: Mapping[str, Any], source: str, model: ModelConfig) -> tuple[dict[str, Any], InitReport]:
    """`variables` with the leaves of `source` where name and shape agree, and what was done.

    `source` is a weights folder, a workdir, or a file: a detector's checkpoint or an ImageNet body. DataError if it
    cannot be read or does not fit anywhere.
    """
    given = _read(Path(source), model)
    ours = named_leaves(dict(variables))
    taken = tuple(name for name in ours if name in given and given[name].shape == ours[name].shape)
    if not taken:
        raise DataError(f"{source}: no array has the name and shape of one of this model's ({model.backbone}).")
    report = InitReport(
        taken, tuple(name for name in ours if name not in taken), tuple(name for name in given if name not in taken)
    )
    return replace_leaves(
        dict(variables), {name: given[name] if name in taken else ours[name] for name in ours}
    ), report


def _read(path: Path, model: ModelConfig) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        weights = load_weights(path)
        _check_conventions(path, weights.model, model)
        return host_copies(dict(weights.variables))
    try:
        found = open_source(path)
    except UnknownNames:
        return read_body(path, model)
    _check_conventions(path, found.recognised.model, model)
    return named_leaves(import_variables(found, found.recognised.model)[0])


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
