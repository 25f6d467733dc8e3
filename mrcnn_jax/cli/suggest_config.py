"""Writes a preset for prepared data and this machine: each value with a comment that states its reason.

Anchors are found by k-means over the boxes. The sizes of images follow from those of objects, and the network and the
number of steps from the time and from the speed of this machine, which is measured with a few steps. Every option of
training that is given, such as --train.batch-size, wins and is taken into account.

    mrcnn suggest-config --data data/mine --to configs/mine.py --minutes 30
"""

import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn_jax import command_names
from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.machine_speed import estimate_machine, measure_machine
from mrcnn_jax.config import Config
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.presets import load_preset
from mrcnn_jax.recipe.data_splits import find_splits, summarise
from mrcnn_jax.recipe.preset_text import write_preset_text
from mrcnn_jax.recipe.recipe_input import RecipeInput
from mrcnn_jax.recipe.step_cost import MachineSpeed
from mrcnn_jax.recipe.suggest import Suggestion, suggest
from mrcnn_jax.weights.folder import read_model_config

MAX_MEASUREMENTS = 2
"""Models that are compiled and timed; a second one only if the first turns out to be too slow or too fast."""


@dataclass(frozen=True)
class Arguments:
    """Data, time, and settings of training that win over the suggestion."""

    config: command_line.Inline[Config]
    data: str = ""
    """Prepared folder, DIR with the splits train and val, or DIR:SPLIT; or give --data.train and --data.val."""
    to: Path = command_line.Required
    """File of the preset."""
    minutes: float = 30.0
    """Time of the training run on this machine, with its start and last evaluation."""
    gflops: float = 0.0
    """Speed of training in 1e9 operations per second, as this command printed it before; 0 measures it."""
    measure: bool = True
    """Time a few steps of the model, which has to be compiled; otherwise its speed is estimated."""
    overwrite: bool = False
    """Replace the file if it exists."""


def main() -> None:
    """Reads the data, measures the machine, and writes the preset."""
    argv = sys.argv[1:]
    arguments = command_line.parse(Arguments(Config()), __doc__ or "", argv)
    check_arguments(arguments)
    given = {name: value for name, value in settings_of(arguments.config) if is_given(name, argv)}
    if arguments.data:
        train, val = find_splits(arguments.data)
        given = {"data.train": train} | ({"data.val": val} if val else {}) | given
    if not given.get("data.train"):
        raise ConfigError("No data is named. Pass a prepared folder: --data DIR, or --data.train DIR:SPLIT.")
    train_data = open_dataset(given["data.train"])
    val_data = open_dataset(given["data.val"]) if given.get("data.val") else None
    reasons = dict.fromkeys(("data.train", "data.val"), "The data of this recipe.")
    for name, value in read_start(given.get("train.init_from", "")).items():
        if name not in given:
            given[name] = value
            reasons[name] = "As in the weights from which training starts."
    source = RecipeInput(
        summarise(train_data, val_data), estimate_machine(arguments.gflops), arguments.minutes, given, reasons
    )
    try:
        suggestion = suggest(source)
        if arguments.measure and not arguments.gflops:
            source, suggestion = measured(source, suggestion)
    except ValueError as error:  # of a section of the configuration
        raise ConfigError(str(error)) from None
    write(arguments, source, suggestion, argv)


def check_arguments(arguments: Arguments) -> None:
    """Raises ConfigError for values that cannot be used."""
    if not arguments.minutes > 0 or not arguments.gflops >= 0:
        raise ConfigError("--minutes: expected a positive number. --gflops: expected 0 or more.")
    if arguments.to.suffix != ".py":
        raise ConfigError(f"--to {arguments.to}: expected a file that ends in .py.")
    if arguments.to.exists() and not arguments.overwrite:
        raise ConfigError(f"--to {arguments.to} exists. Pass --overwrite, or choose another name.")


def settings_of(config: Config) -> Iterator[tuple[str, Any]]:
    """Yields the name, such as `train.seed`, and the value of each setting."""
    for section in dataclasses.fields(config):
        values = getattr(config, section.name)
        for each in dataclasses.fields(values):
            yield f"{section.name}.{each.name}", getattr(values, each.name)


def is_given(name: str, argv: Sequence[str]) -> bool:
    """Returns whether an option sets this setting: `--train.seed`, `--model.no-masks`, with `_` or `=`, too."""
    section, _, key = name.partition(".")
    options = {f"--{section}.{key}".replace("_", "-"), f"--{section}.no-{key}".replace("_", "-")}
    return any(argument.partition("=")[0].replace("_", "-") in options for argument in argv if argument[:2] == "--")


def read_start(path: str) -> dict[str, Any]:
    """Returns the network of the weights folder or workdir from which training starts; none for other weights."""
    if not path or not Path(path).is_dir():
        return {}
    own = {"num_classes", "num_keypoints", "keypoint_flip"}
    model = read_model_config(path)
    return {
        f"model.{each.name}": getattr(model, each.name) for each in dataclasses.fields(model) if each.name not in own
    }


def measured(source: RecipeInput, suggestion: Suggestion) -> tuple[RecipeInput, Suggestion]:
    """Returns the suggestion for the measured speed of the suggested model."""
    for _ in range(MAX_MEASUREMENTS):
        config = suggestion.config
        machine = measure_machine(source.machine, config, suggestion.network_size.relative_speed)
        source = dataclasses.replace(source, machine=machine)
        again = suggest(source)
        is_same = (again.network_size, again.config.data.short_sides) == (
            suggestion.network_size,
            config.data.short_sides,
        )
        suggestion = again
        if is_same:
            break
    return source, suggestion


def write(arguments: Arguments, source: RecipeInput, suggestion: Suggestion, argv: Sequence[str]) -> None:
    """Writes the preset, checks that it loads as suggested, and prints what it leads to."""
    data, machine, config = source.data, source.machine, suggestion.config
    name = config.data.train
    title = (
        f"A preset for {name}: {data.num_images} images, {data.num_objects} objects of {len(data.categories)} classes."
    )
    devices = (
        f"JAX_NUM_CPU_DEVICES={machine.num_devices} " if machine.platform == "cpu" and machine.num_devices > 1 else ""
    )
    run = f"{shlex.quote(str(arguments.to))} --workdir {shlex.quote(f'runs/{arguments.to.stem}')}"
    command = f"{devices}{command_names.typed('train')} {run}"
    made = f"Written by {command_names.current()} {shlex.join(argv)}"
    facts = describe(machine, source, suggestion)
    text = write_preset_text(suggestion.choices, title, [made, *facts, *suggestion.notes], command)
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    arguments.to.write_text(text, encoding="utf-8")
    assert load_preset(arguments.to) == config
    for line in (*facts, *suggestion.notes):
        command_line.note(line)
    print(f"Wrote {arguments.to}. Next: {command}")


def describe(machine: MachineSpeed, source: RecipeInput, suggestion: Suggestion) -> list[str]:
    """Returns what the recipe consists of and assumes, one line each."""
    plan, config, batch = suggestion.plan, suggestion.config, suggestion.config.train.batch_size
    total = plan.start_seconds + plan.evaluation_seconds + config.train.num_steps * plan.step_seconds
    minutes = total / 60
    lines = [
        f"A {suggestion.network_size.name} network, short side {max(config.data.short_sides)} px, "
        f"{config.train.num_steps} steps of {batch} images: about {minutes:.0f} minutes, {plan.step_seconds:.2f} s a "
        "step.",
        f"Speed: {machine.flops_per_second / 1e9:.1f} GFLOP/s (--gflops), {machine.evidence}, {machine.platform}.",
        f"Anchors: {suggestion.anchors.coverage:.1%} of the boxes have one of IoU 0.5 or more.",
    ]
    if len(source.data.facts.image_hw) < source.data.num_images:
        lines.append(f"The boxes of {len(source.data.facts.image_hw)} of {source.data.num_images} images were read.")
    if machine.platform == "cpu" and machine.num_devices == 1 and machine.num_cores > 1:
        lines.append("JAX_NUM_CPU_DEVICES=2 before both commands makes better use of the cores.")
    return lines
