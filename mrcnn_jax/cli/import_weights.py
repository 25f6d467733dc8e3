"""Converts a Mask, Keypoint or Faster R-CNN checkpoint of torchvision, Detectron2 or MMDetection to a weights folder.

mrcnn import maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --to weights/torchvision_r50
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mrcnn_jax import command_names
from mrcnn_jax.categories import Category
from mrcnn_jax.cli import command_line
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.config.option_text import as_options
from mrcnn_jax.data.coco_file import read_categories
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.weights.coco_categories import UNUSED, default_categories
from mrcnn_jax.weights.files.tables import TAKE
from mrcnn_jax.weights.folder import save_weights
from mrcnn_jax.weights.importing import WeightsFile, check_sha256, import_variables, open_weights_file
from mrcnn_jax.weights.mapping import Mapped

CHOICES = {
    "source": ("auto", "torchvision", "detectron2", "mmdetection"),
    "take": TAKE,
    "input_format": ("auto", "rgb", "bgr"),
}
"""Options that decide what is recognised, so they are read before the others."""


@dataclass(frozen=True)
class Arguments:
    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = command_line.Required
    """Checkpoint: .pth or .ckpt of any torch version, .pkl (Detectron2), or .safetensors or .npz with such names."""
    to: Path = command_line.Required
    """Weights folder to write."""
    source: Literal["auto", "torchvision", "detectron2", "mmdetection"] = "auto"
    """Origin of the array names in the checkpoint; auto recognises it."""
    take: Literal["auto", "model", "ema"] = "auto"
    """Which weights of a file with averaged ones: those of the last step (model), or the averaged ones (ema)."""
    input_format: Literal["auto", "rgb", "bgr"] = "auto"
    """Order of the channels that the model was trained with; auto takes what the checkpoint states or its family's."""
    sha256: str = ""
    """Expected SHA-256 of the checkpoint, or its first 8 or more digits, with which torch's file names end."""
    categories: Path | None = None
    """COCO annotation file with the names of the classes, by ascending id; by default the checkpoint's own, if it has
    them, or COCO's, if their number fits. Name an output without a class N/A."""
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
    for note in (*source.notes, *recognised.notes):
        print(note)
    if options := as_options("model", arguments.model, changed_fields(recognised.model, arguments.model)):
        print(f"Overridden: {options}")
    class_names = recognised.class_names
    categories = choose_categories(arguments, class_names)
    variables, mapped = import_variables(source, arguments.model)
    del source  # it takes as much memory as the variables
    save_weights(
        arguments.to, variables, model_config=arguments.model, test_config=arguments.test, categories=categories
    )
    print(describe(mapped))
    print(describe_classes(arguments, class_names, categories))
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
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, choices in CHOICES.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, f"--{name}", dest=name, choices=choices, default="auto")
    try:
        known, _ = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}. See --help.") from None
    source = "" if known.source == "auto" else known.source
    input_format: Literal["", "rgb", "bgr"] = known.input_format if known.input_format != "auto" else ""
    return open_weights_file(Path(paths[0]), source, take=known.take, input_format=input_format)


def changed_fields(before: ModelConfig, after: ModelConfig) -> list[str]:
    """Returns the names of the fields whose values differ."""
    return [entry.name for entry in fields(before) if getattr(before, entry.name) != getattr(after, entry.name)]


def choose_categories(arguments: Arguments, class_names: Sequence[str]) -> tuple[Category, ...]:
    """Returns the categories of the named file, by default those with the checkpoint's names, or COCO's.

    Outputs between the ids of the file are named N/A if its highest id is the model's last output, since torchvision's
    labels are often the ids.
    """
    wanted = arguments.model.num_classes
    if arguments.categories is None:
        return default_categories(wanted, arguments.model.num_keypoints, class_names)
    categories = read_categories(arguments.categories)
    by_id = {category.id: category for category in categories}
    if len(categories) < wanted == max(by_id, default=0) and min(by_id) >= 1:
        return tuple(by_id.get(id_, Category(id_, UNUSED)) for id_ in range(1, wanted + 1))
    if len(categories) != wanted:
        raise ConfigError(
            f"{arguments.categories} has {len(categories)} categories, but the checkpoint has {wanted} classes. Name "
            f"the annotation file of its training data, or add categories named {UNUSED} for outputs without a class."
        )
    return categories


def describe_classes(arguments: Arguments, class_names: Sequence[str], categories: Sequence[Category]) -> str:
    """Returns a summary of the classes' names and their origin."""
    unused = sum(category.name == UNUSED for category in categories)
    shown = ", ".join(category.name for category in categories[:3]) + ", ..." * (len(categories) > 3)
    origin = f"of {arguments.categories}" if arguments.categories else "of the checkpoint" if class_names else "COCO's"
    if not arguments.categories and categories[0].name == "class 1":
        return f"Classes: {len(categories)}, numbered, since the checkpoint has no names: set --categories FILE.json"
    return f"Classes: {len(categories)}, {origin} ({shown})" + f"; {unused} outputs have none (N/A)" * bool(unused)


def describe(mapped: Mapped) -> str:
    """Returns a summary of how the checkpoint's arrays were used."""
    text = f"Mapped: {len(mapped.used)} arrays, every parameter filled"
    if mapped.left_over:
        shown = ", ".join(mapped.left_over[:2])
        text += f"; left over, not needed: {len(mapped.left_over)} ({shown}{', ...' * (len(mapped.left_over) > 2)})"
    return text
