"""Code shared by the families of published weights: recognising a backbone, and the result of recognition."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from mrcnn_jax.config import Backbone, ModelConfig, TestConfig
from mrcnn_jax.config.backbones import BACKBONES
from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.mapping import Row

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Hints:
    """What is known about a checkpoint apart from its arrays."""

    input_format: Literal["", "rgb", "bgr"] = ""
    """Order of the channels that the network was trained with; "" if the user did not name it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The `config.yaml` beside the file, which Detectron2 writes."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The file's `meta`, which MMDetection writes."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """The options of torchvision's training script, which it saves in its checkpoints."""


NO_HINTS = Hints()


@dataclass(frozen=True)
class Recognised:
    """The configuration that the names and shapes of a checkpoint, and hints, imply."""

    name: str
    """A readable description."""
    model: ModelConfig
    test: TestConfig
    input_format: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels of the first kernel."""
    notes: tuple[str, ...] = ()
    """Sentences about what was assumed, or read from elsewhere than the arrays."""
    class_names: tuple[str, ...] = ()
    """Names of the classes without background, if the file has them."""


class Stated(NamedTuple):
    """What a foreign configuration states: fields of ModelConfig and TestConfig, the order of channels, and notes."""

    model: dict[str, Any]
    test: dict[str, Any]
    input_format: Literal["rgb", "bgr"]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """The naming scheme of one source of weights."""

    name: str
    prefixes: tuple[str, ...]
    """Prefixes of names that occur only in this family's detectors."""
    rename: Callable[[Arrays], Arrays]
    """Renames arrays from older names to current ones."""
    recognise: Callable[[Arrays, Hints], Recognised]
    table: Callable[[ModelConfig, Arrays, bool], Sequence[Row]]
    """Returns a row for each array of a model; the bool is whether the first kernel takes BGR."""
    is_surplus: Callable[[str], bool]
    """Returns whether an array of this name may be left unused."""

    def matches(self, names: Arrays) -> bool:
        """Returns whether the names are those of a detector of this family."""
        return any(name.startswith(self.prefixes) for name in names)


def stated(problem: str, option: str) -> str:
    """Returns a note about an assumption and the option that changes it."""
    return f"Assumed: {problem} If this is wrong, add {option}."


def canvases_for(short_side: int, max_side: int) -> tuple[tuple[int, int], ...]:
    """Returns landscape and portrait canvases, in multiples of 32, that hold images of these sides."""
    short, long = (-(-side // 32) * 32 for side in (short_side, max_side))
    return ((short, long),) if short == long else ((short, long), (long, short))


def need(arrays: Arrays, name: str) -> np.ndarray:
    """Returns the array of this name. Raises DataError if it is missing."""
    if name not in arrays:
        raise DataError(f"{name} is missing, so the model cannot be recognised.")
    return arrays[name]


def count_blocks(names: Arrays, pattern: str) -> int:
    """Returns how many different numbers the pattern's group matches in the names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def find_widths(arrays: Arrays, lateral: str, fcs: tuple[str, str], mask_conv: str, mask_convs: str) -> dict[str, int]:
    """Returns fields of ModelConfig with the widths of the FPN and the heads, as far as shapes that agree state them.

    The arguments are names of the first lateral kernel, of the kernels of two fully connected layers, of the first
    kernel of the mask head, and a pattern whose group numbers the mask head's convolutions.
    """
    found: dict[str, int] = {}
    channels = arrays[lateral].shape[0] if lateral in arrays else 256
    first, second = (arrays.get(name) for name in fcs)
    if first is not None and second is not None and second.shape == (first.shape[0],) * 2:
        side = round((first.shape[1] / channels) ** 0.5)
        if channels * side**2 == first.shape[1]:
            found |= {"fpn_channels": channels, "box_head_dim": first.shape[0], "box_pool_size": side}
    if mask_conv in arrays:
        found |= {"mask_head_dim": arrays[mask_conv].shape[0], "mask_head_convs": count_blocks(arrays, mask_convs)}
    return found


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
