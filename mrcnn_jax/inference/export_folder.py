"""The folder of an exported model: its loader, what every description.json contains, and all or nothing on the disk."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import ConfigError, StorageError
from mrcnn_jax.inference.augmentation import is_augmented
from mrcnn_jax.weights.folder import Weights

MasksForm = Literal["full", "crops"]

FORMAT_VERSION = 1
IMAGES = "RGB 0..255, resized, zeros right and below"
RESULTS = {
    "boxes": "float32 [n, 4]: x0, y0, x1, y1 in pixels of the image",
    "scores": "float32 [n], best first",
    "labels": "int64 [n], ids of the categories",
    "masks": "bool [n, H, W] (full), or float32 [n, m, m] probabilities that cover the box (crops); if there is a head",
    "keypoints": "float32 [n, K, 3]: x, y in pixels of the image, and a score; if there is a head",
}


def check_folder(path: Path, test_config: TestConfig) -> None:
    """Raises ConfigError if the folder exists or a setting cannot be exported in any form."""
    if path.exists():
        raise ConfigError(f"--to: {path} exists. Choose another folder, or remove it first.")
    if is_augmented(test_config):
        raise ConfigError(
            "Test-time augmentation is not exported, because the host merges its detections. Turn it off with "
            "--test.no-augment-flip --test.augment-short-sides."
        )


def write_folder(path: Path, loader: Sequence[ModuleType], write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Writes a folder with load.py, the files of `write(folder)`, and a description.json with what that returns.

    Returns the content of description.json, which also has bytes and SHA-256 of each file. The folder appears whole or
    not at all. StorageError if it cannot be written.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        (new / "load.py").write_text(loader_source(loader))
        description = write(new)
        description["files"] = _describe_files(new)
        (new / "description.json").write_text(json.dumps(description, indent=1) + "\n")
        os.rename(new, path)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}. Free space or choose another.") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return description


def loader_source(modules: Sequence[ModuleType]) -> str:
    """Returns the text of load.py: the loader's modules one after the other, without their imports of each other."""
    texts = [Path(str(module.__file__)).read_text() for module in modules]
    kept = ("\n".join(line for line in text.splitlines() if "from mrcnn_jax" not in line) for text in texts)
    return "\n\n\n".join(text.rstrip() for text in kept) + "\n"


def describe_model(weights: Weights, test_config: TestConfig, packages: Sequence[str]) -> dict[str, Any]:
    """Returns the entries of description.json that all forms share; `packages` wrote the programs."""
    model = weights.model
    return {
        "format_version": FORMAT_VERSION,
        "model": asdict(model),
        "step": weights.step,
        "categories": [asdict(category) for category in weights.categories],
        "normalisation": {
            "in_program": True,
            "mean": list(model.pixel_mean),
            "std": list(model.pixel_std),
            "formula": "(pixels - mean) / std, RGB",
        },
        "results": RESULTS,
        "test": asdict(test_config),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "written": datetime.date.today().isoformat(),
    }


def _describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns bytes and SHA-256 of each file."""

    def digest(file: Path) -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    files = sorted(folder.iterdir())
    return {file.name: {"bytes": file.stat().st_size, "sha256": digest(file)} for file in files}
