"""The weights folder: parameters and everything that is needed to use them, with checksums.

    weights/description.json    format version, model and test config, categories, one record per leaf, library versions
                                and, if a run wrote the folder, its step and the settings of its loss
    weights/parameters/         the variables, an Orbax checkpoint

The folder is written under a temporary name and then renamed, so an incomplete one never appears at its path.
"""

import importlib.metadata
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import jax
import numpy as np
import orbax.checkpoint as ocp

from mrcnn_jax.categories import Category
from mrcnn_jax.config import LossConfig, ModelConfig, TargetsConfig, TestConfig
from mrcnn_jax.config.checks import coerce
from mrcnn_jax.config.renamed_fields import with_current_names
from mrcnn_jax.errors import DataError, NumericalError, StorageError
from mrcnn_jax.json_files import digest_json
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.named_leaves import (
    count_not_finite,
    describe_differences,
    find_changed,
    find_not_finite,
    host_copies,
    named_leaves,
    record_leaves,
    replace_leaves,
    silence_abandoned_reads,
)
from mrcnn_jax.run_folder import read_run_folder

FORMAT_VERSION = 1
Variables = Mapping[str, Any]
ConfigSection = TypeVar("ConfigSection", ModelConfig, TestConfig, TargetsConfig, LossConfig, Category)


@dataclass(frozen=True)
class Weights:
    """The content of a weights folder."""

    variables: Variables
    """Collections of arrays on the default device: "params", and "frozen" or "batch_stats" if the norm has it."""
    model: ModelConfig
    test: TestConfig
    categories: tuple[Category, ...]
    """Label k (1..C) of the model is categories[k - 1]."""
    step: int | None = None
    """Training step of the run that wrote them; None for imported weights and those of earlier versions."""
    loss: LossConfig | None = None
    """Settings of the run's loss; None like `step`."""


class _Description(NamedTuple):
    """The content of description.json without checksum and versions."""

    model: ModelConfig
    test: TestConfig
    categories: tuple[Category, ...]
    records: dict[str, Any]
    """Record of each leaf."""
    step: int | None
    loss: LossConfig | None


def save_weights(
    path: str | Path,
    variables: Variables,
    *,
    model_config: ModelConfig,
    test_config: TestConfig,
    categories: Sequence[Category],
    step: int | None = None,
    loss_config: LossConfig | None = None,
) -> None:
    """Writes the folder, replacing an existing one. Raises StorageError if it cannot be written.

    `step` is the training step of a run that the variables come from, and `loss_config` has the settings of its loss.
    """
    path = Path(path).absolute()
    leaves = host_copies(dict(variables))
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model": asdict(model_config),
        "test": asdict(test_config),
        "categories": [asdict(category) for category in categories],
        "leaves": record_leaves(leaves),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy", "orbax-checkpoint")},
    }
    if step is not None:
        description["step"] = step
    if loss_config is not None:
        description["loss"] = asdict(loss_config)
    description["sha256"] = digest_json(description)
    new, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    try:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir(parents=True)
        with _own_checkpointer() as checkpointer:
            checkpointer.save(new / "parameters", replace_leaves(dict(variables), leaves))
        (new / "description.json").write_text(json.dumps(description, indent=1) + "\n")
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    except (OSError, ValueError, RuntimeError) as error:  # Orbax reports a full disk as ValueError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StorageError(f"Weights could not be written to {path} ({reason[:200]}).") from error
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def load_weights(path: str | Path) -> Weights:
    """Reads and verifies a weights folder, or the one in a workdir.

    Raises DataError if the folder is missing or has an unknown format version, or if leaves are missing, unexpected,
    mis-shaped or changed on disk; these are reported by name. Raises NumericalError if leaves match their checksums but
    are not finite.
    """
    folder = find_weights(path)
    model, test, categories, records, step, loss = _read_description(folder)
    expected = variable_shapes(MaskRCNN(model))
    problems = describe_differences(named_leaves(expected), records)
    if model.num_classes != len(categories):
        problems.append(f"the model has {model.num_classes} classes, but the folder has {len(categories)} categories")
    if not problems:
        host = _read_parameters(folder, expected)
        leaves = named_leaves(host)
        problems += [f"{name} changed on disk: the checksum differs" for name in find_changed(leaves, records)]
    if problems:
        raise DataError(f"{folder}: {'; '.join(problems)}.")
    if bad := find_not_finite(leaves):
        raise NumericalError(
            f"{folder}: {describe_not_finite(bad, leaves)}. The checksums match, so the weights were saved like this: "
            "use those of an earlier step."
        )
    return Weights(jax.device_put(host), model, test, categories, step, loss)


def describe_not_finite(names: Sequence[str], leaves: Mapping[str, np.ndarray]) -> str:
    """Returns a text with the first of the leaves, the part of the network that it belongs to, and their number."""
    first = names[0]
    module = first.split("/")[1]
    part = {"fpn": "the FPN", "rpn_head": "the RPN", "res5": "the box head"}.get(module, f"the {module}")
    others = f" (1 of {len(names)} such arrays)" if len(names) > 1 else ""
    return f"{first} of {part.replace('_', ' ')} is not finite in {count_not_finite(leaves[first])}{others}"


def read_test_config(path: str | Path) -> TestConfig:
    """Returns the test settings of a weights folder, or of the one in a workdir, without reading its arrays.

    Raises DataError if the folder is missing or its description is damaged.
    """
    return _read_description(find_weights(path)).test


def read_model_config(path: str | Path) -> ModelConfig:
    """Returns the network of a weights folder, or of the one in a workdir; DataError like `read_test_config`."""
    return _read_description(find_weights(path)).model


def read_stored_categories(path: str | Path) -> tuple[Category, ...]:
    """Returns the categories of a weights folder, or of the one in a workdir; DataError like `read_test_config`."""
    return _read_description(find_weights(path)).categories


def find_weights(path: str | Path) -> Path:
    """Returns the weights folder at `path`, or `weights` inside it. Raises DataError if there is neither."""
    path = Path(path).absolute()
    for folder in (path, path / "weights"):
        if (folder / "description.json").is_file():
            return folder
    what = "contains neither description.json nor weights/description.json" if path.exists() else "does not exist"
    way_out = read_run_folder(path).describe_way_out()
    raise DataError(
        f"{path} {what}. Pass a weights folder, or the workdir of a run that was evaluated."
        f"{f' {path} has checkpoints: {way_out}' if way_out else ''}"
    )


def _read_description(folder: Path) -> _Description:
    """Returns the content of description.json, which is checked against its checksum."""
    file = folder / "description.json"
    try:
        description = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}.") from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {version}, but this mrcnn_jax reads {FORMAT_VERSION}. Update mrcnn_jax."
        )
    if description.pop("sha256", None) != digest_json(description):
        raise DataError(f"{file} changed since it was written: the checksum differs. Copy the folder again.")
    try:
        settings = with_current_names(
            {
                f"{section}.{name}": value
                for section in ("model", "test")
                for name, value in description[section].items()
            }
        )
        model = _config_from_json(ModelConfig, _section(settings, "model"))
        test = _config_from_json(TestConfig, _section(settings, "test"))
        categories = tuple(_config_from_json(Category, category) for category in description["categories"])
        loss = _read_loss(description["loss"]) if "loss" in description else None
        return _Description(model, test, categories, dict(description["leaves"]), description.get("step"), loss)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: {error}. Write the weights again with this version.") from error


def _read_loss(values: Mapping[str, Any]) -> LossConfig:
    return _config_from_json(LossConfig, {**values, "targets": _config_from_json(TargetsConfig, values["targets"])})


def _read_parameters(folder: Path, expected: Variables) -> Variables:
    # With NumPy leaves in the target, Orbax returns NumPy arrays, whatever devices the weights were saved from.
    template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), expected)
    try:
        with _own_checkpointer() as checkpointer:
            return checkpointer.restore(folder / "parameters", template)
    except Exception as error:  # damage can raise almost any exception
        silence_abandoned_reads()
        raise DataError(
            f"{folder}/parameters cannot be read ({type(error).__name__}). Copy the folder again."
        ) from error


def _own_checkpointer() -> ocp.StandardCheckpointer:
    """Returns a checkpointer for this process alone, independent of the other processes of a run."""
    own = jax.process_index()
    return ocp.StandardCheckpointer(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"weights-{own}"
        )
    )


def _section(settings: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Returns the settings of one section, without its prefix."""
    return {
        name.removeprefix(f"{section}."): value for name, value in settings.items() if name.startswith(f"{section}.")
    }


def _config_from_json(section: type[ConfigSection], values: Mapping[str, Any]) -> ConfigSection:
    """Returns the dataclass with the values of a JSON object, lists as tuples. Raises ValueError for unknown names."""
    known = {field.name for field in fields(section)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{section.__name__} has no field {', '.join(unknown)}")
    hints = get_type_hints(section, include_extras=True)
    return section(**{name: coerce(hints[name], value) for name, value in values.items()})
