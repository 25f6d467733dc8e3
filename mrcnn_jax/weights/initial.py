"""Starting from other weights: whatever has the name and shape of one of our leaves is taken, the rest stays fresh."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.errors import DataError
from mrcnn_jax.leaves import host_copies, named_leaves, replace_leaves
from mrcnn_jax.weights.body import read_body
from mrcnn_jax.weights.folder import load_weights


@dataclass(frozen=True)
class InitReport:
    """Names of leaves: what became of each one of ours and of the source's."""

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def describe(self, source: str) -> str:
        """One paragraph for people; names modules, since their leaves share their fate nearly always."""
        text = f"Started from {source}: {len(self.taken)} of {len(self.taken) + len(self.fresh)} arrays taken"
        if self.fresh:
            text += f"; re-initialised: {', '.join(_modules(self.fresh))}"
        if self.unused:
            text += f"; not used: {', '.join(_modules(self.unused))}"
        return f"{text}."


def initialise(variables: Mapping[str, Any], source: str, model: ModelConfig) -> tuple[dict[str, Any], InitReport]:
    """`variables` with the leaves of `source` where name and shape agree, and what was done.

    `source` is a weights folder, a workdir, or an ImageNet body as .npz. DataError if it cannot be read or fits nowhere.
    """
    path = Path(source)
    given = read_body(path, model) if path.suffix == ".npz" else host_copies(dict(load_weights(path).variables))
    ours = named_leaves(dict(variables))
    taken = tuple(name for name in ours if name in given and given[name].shape == ours[name].shape)
    if not taken:
        raise DataError(f"{source}: no array has the name and shape of one of this model's ({model.backbone}).")
    report = InitReport(
        taken, tuple(name for name in ours if name not in taken), tuple(name for name in given if name not in taken)
    )
    return replace_leaves(dict(variables), {name: given[name] if name in taken else ours[name] for name in ours}), report


def _modules(names: tuple[str, ...]) -> list[str]:
    """The modules of the leaves, without collection and leaf: `backbone/layer4_0/conv1/conv`."""
    return list(dict.fromkeys("/".join(name.split("/")[1:-1]) for name in names))
