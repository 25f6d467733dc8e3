"""Converts a Mask, Keypoint or Faster R-CNN checkpoint of torchvision or Detectron2 to a weights folder.

mrcnn import maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --to weights/torchvision_r50
"""

import argparse
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from mrcnn_jax import command_names
from mrcnn_jax.categories import Category
from mrcnn_jax.cli import command_line
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.data.coco_file import read_categories
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.weights.coco_categories import default_categories
from mrcnn_jax.weights.folder import save_weights
from mrcnn_jax.weights.importing import WeightsFile, check_sha256, import_variables, open_weights_file
from mrcnn_jax.weights.mapping import Mapped

FAMILIES = Literal["auto", "torchvision", "detectron2"]


@dataclass(frozen=True)
class Arguments:
    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = command_line.Required
    """Checkpoint: .pth (any torch version), .pkl (Detectron2), or .safetensors or .npz with the original names."""
    to: Path = command_line.Required
    """Weights folder to write."""
    source: FAMILIES = "auto"
    """Origin of the array names in the checkpoint; auto recognises it."""
    sha256: str = ""
    """Expected SHA-256 of the checkpoint, or its first 8 or more digits, with which torch's file names end."""
    categories: Path | None = None
    """COCO annotation file with the names of the classes, by ascending id; by default COCO's, if their number fits."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Architecture and conventions; the defaults are those of the recognised model."""
    test: TestConfig = field(default_factory=TestConfig)
    """Test settings to store in the folder; the defaults are those of the checkpoint's origin."""


def main() -> None:
    """Reads and recognises the checkpoint, maps its arrays and writes the folder."""
    source = peek()
    recognised = source.recognised if source else None
    defaults = Arguments(model=recognised.model, test=recognised.test) if recognised else Arguments()
    arguments = command_line.parse(defaults, "Converts a published checkpoint to a weights folder.")
    assert source is not None and recognised is not None, "the parser requires SOURCE"
    if arguments.sha256:
        check_sha256(arguments.checkpoint, arguments.sha256)
    print(f"Recognised: {recognised.name} ({source.format})")
    for name in changed_fields(recognised.model, arguments.model):
        print(f"Overridden: model.{name} = {getattr(arguments.model, name)}")
    variables, mapped = import_variables(source, arguments.model)
    del source  # it takes as much memory as the variables
    categories = choose_categories(arguments)
    save_weights(
        arguments.to, variables, model_config=arguments.model, test_config=arguments.test, categories=categories
    )
    print(describe(mapped))
    print(f"Wrote {arguments.to}")
    print(f"Next: {command_names.typed('predict')} --weights {arguments.to} --output predictions IMAGES")


def peek() -> WeightsFile | None:
    """Returns the checkpoint that the command line names; read first, because it determines defaults of options."""
    words = sys.argv[1:]
    takes_next = [word.startswith("--") and "=" not in word for word in words]
    paths = [word for word, is_value in zip(words, [False, *takes_next], strict=False) if not is_value]
    paths = [word for word in paths if not word.startswith("-")]
    if {"-h", "--help"} & set(words) or not paths:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--source", choices=get_args(FAMILIES), default="auto")
    try:
        known, _ = parser.parse_known_args(words)
    except SystemExit:
        raise ConfigError(f"--source: expected one of {', '.join(get_args(FAMILIES))}.") from None
    return open_weights_file(Path(paths[0]), "" if known.source == "auto" else known.source)


def changed_fields(before: ModelConfig, after: ModelConfig) -> list[str]:
    """Returns the names of the fields whose values differ."""
    return [entry.name for entry in fields(before) if getattr(before, entry.name) != getattr(after, entry.name)]


def choose_categories(arguments: Arguments) -> tuple[Category, ...]:
    """Returns the categories of the named file, by default COCO's if their number fits."""
    if arguments.categories is None:
        return default_categories(arguments.model.num_classes, arguments.model.num_keypoints)
    categories = read_categories(arguments.categories)
    if len(categories) != arguments.model.num_classes:
        wanted = arguments.model.num_classes
        raise ConfigError(
            f"{arguments.categories} has {len(categories)} categories, but the checkpoint has {wanted} classes. "
            "Name the annotation file of its training data."
        )
    return categories


def describe(mapped: Mapped) -> str:
    """Returns a summary of how the checkpoint's arrays were used."""
    text = f"Mapped: {len(mapped.used)} arrays, every parameter filled"
    if mapped.left_over:
        shown = ", ".join(mapped.left_over[:2])
        text += f"; left over, not needed: {len(mapped.left_over)} ({shown}{', ...' * (len(mapped.left_over) > 2)})"
    return text
