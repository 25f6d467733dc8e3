"""What the families of published weights share: how a backbone is recognised, and what recognition returns."""

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
    """The configuration behind the names and shapes of a checkpoint."""

    name: str
    """For people."""
    model: ModelConfig
    test: TestConfig


@dataclass(frozen=True)
class Family:
    """Names of one source of weights."""

    name: str
    prefixes: tuple[str, ...]
    """What the names of its detectors start with, and no other family's."""
    rename: Callable[[Arrays], Arrays]
    """Older names to today's."""
    recognise: Callable[[Arrays], Recognised]
    table: Callable[[ModelConfig, Arrays], Sequence[Row]]
    """Every array of such a model and the leaf that it becomes."""
    is_surplus: Callable[[str], bool]
    """Whether an array of this name may be left over."""

    def matches(self, names: Arrays) -> bool:
        """Whether a detector of this family has such names."""
        return any(name.startswith(self.prefixes) for name in names)


def need(arrays: Arrays, name: str) -> np.ndarray:
    """The array of this name; DataError if it is missing."""
    if name not in arrays:
        raise DataError(f"{name} is missing: without it the model cannot be recognised.")
    return arrays[name]


def count_blocks(names: Arrays, pattern: str) -> int:
    """How many different numbers the group of the pattern takes in the names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def find_backbone(blocks: tuple[int, ...], conv1: np.ndarray, conv2: np.ndarray) -> Backbone:
    """The backbone with so many blocks a stage and these convolutions, [out, in, h, w], in the first one.

    Stages may be missing at the end (0 blocks). DataError if there is none.
    """
    for name, layout in BACKBONES.items():
        fits = all(found in (0, count) for found, count in zip(blocks, layout.blocks, strict=True))
        is_kind = conv1.shape[2] == (1 if layout.has_bottlenecks else 3)
        if fits and is_kind and conv2.shape == (layout.groups * layout.group_channels, layout.group_channels, 3, 3):
            return name
    shape = list(conv2.shape)
    raise DataError(f"No known backbone has {blocks} blocks in its stages and a second convolution of shape {shape}.")
