"""Code shared by the families of published weights: recognising a backbone, and the result of recognition."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mrcnn_jax.config import Backbone, ModelConfig, TestConfig
from mrcnn_jax.config.backbones import BACKBONES
from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.mapping import Row

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Recognised:
    """The configuration that the names and shapes of a checkpoint imply."""

    name: str
    """A readable description."""
    model: ModelConfig
    test: TestConfig


@dataclass(frozen=True)
class Family:
    """The naming scheme of one source of weights."""

    name: str
    prefixes: tuple[str, ...]
    """Prefixes of names that occur only in this family's detectors."""
    rename: Callable[[Arrays], Arrays]
    """Renames arrays from older names to current ones."""
    recognise: Callable[[Arrays], Recognised]
    table: Callable[[ModelConfig, Arrays], Sequence[Row]]
    """Returns a row for each array of a model."""
    is_surplus: Callable[[str], bool]
    """Returns whether an array of this name may be left unused."""

    def matches(self, names: Arrays) -> bool:
        """Returns whether the names are those of a detector of this family."""
        return any(name.startswith(self.prefixes) for name in names)


def need(arrays: Arrays, name: str) -> np.ndarray:
    """Returns the array of this name. Raises DataError if it is missing."""
    if name not in arrays:
        raise DataError(f"{name} is missing, so the model cannot be recognised.")
    return arrays[name]


def count_blocks(names: Arrays, pattern: str) -> int:
    """Returns how many different numbers the pattern's group matches in the names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def find_backbone(blocks: tuple[int, ...], conv1: np.ndarray, conv2: np.ndarray) -> Backbone:
    """Returns the backbone with these numbers of blocks per stage and these kernels [out, in, h, w] in its first block.

    Stages may be missing at the end (0 blocks). Raises DataError if no backbone matches.
    """
    for name, layout in BACKBONES.items():
        fits = all(found in (0, count) for found, count in zip(blocks, layout.blocks, strict=True))
        is_kind = conv1.shape[2] == (1 if layout.has_bottlenecks else 3)
        if fits and is_kind and conv2.shape == (layout.groups * layout.group_channels, layout.group_channels, 3, 3):
            return name
    shape = list(conv2.shape)
    raise DataError(f"No known backbone has {blocks} blocks in its stages and a second convolution of shape {shape}.")
