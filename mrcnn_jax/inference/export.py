"""Export of a model as programs that JAX loads without this package (StableHLO in the files of `jax.export`).

    exported/load.py                        the loader: jax, numpy and flatbuffers alone
    exported/description.json               inputs, results, settings, categories, versions, checksums
    exported/weights.npz                    the variables, shared by all programs
    exported/PLATFORM_HEIGHTxWIDTH.jaxexport    a program for each platform and canvas

The weights are a file of their own. Inside a program they would be stored once for each platform and canvas, up to the
two GiB that the format allows, and compiled as constants. NumPy's format has no such limit and needs no other package.

The programs of different platforms differ, because operations such as RoIAlign and NMS have forms for each platform.
"""

import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.export
import numpy as np

from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import ConfigError, StorageError
from mrcnn_jax.inference import exported_inputs, exported_loader, exported_outputs, paste_masks
from mrcnn_jax.inference.augmentation import is_augmented
from mrcnn_jax.inference.prediction_program import export_prediction_program
from mrcnn_jax.known_faults import FAULTS
from mrcnn_jax.named_leaves import named_leaves
from mrcnn_jax.weights.folder import Weights

Platform = Literal["cpu", "cuda", "tpu"]
MasksForm = Literal["full", "crops"]

FORMAT_VERSION = 1
MONTHS_LOADABLE = 6
"""Age in months up to which JAX promises to load a program (docs.jax.dev, "Compatibility guarantees" of jax.export)."""
LOADER_MODULES = (exported_loader, exported_inputs, exported_outputs, paste_masks)


def export_model(
    path: str | Path,
    weights: Weights,
    test_config: TestConfig,
    *,
    platforms: Sequence[Platform] = get_args(Platform),
    masks: MasksForm = "full",
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Writes the folder and returns the content of its description.json.

    Args:
        path: folder to write, which must not exist.
        test_config: settings of the programs, one for each canvas, and of the loader.
        platforms: platforms to lower for; none of them needs to be present.
        masks: form in which the loader returns masks unless it is told otherwise: pasted into the image (full), or
            probabilities that cover their boxes (crops).
        batch_size: number of images of a call; None for any number. A fixed number gives the Predictor's numbers bit
            for bit on the same device, and convolutions that suit it on a TPU.

    Raises:
        ConfigError: the folder exists, a setting cannot be exported, or flatbuffers is not installed.
        StorageError: the folder cannot be written.
    """
    path = Path(path).absolute()
    check_export(path, test_config, platforms)
    new = path.with_name(f".{path.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        (new / "load.py").write_text(loader_source())
        leaves = named_leaves(jax.device_get(dict(weights.variables)))
        with (new / "weights.npz").open("wb") as file:
            np.savez(file, **leaves)
        programs: dict[str, list[dict[str, Any]]] = {platform: [] for platform in platforms}
        for platform in platforms:
            for canvas in test_config.canvases:
                exported = export_prediction_program(weights.model, test_config, canvas, platform, batch_size)
                name = f"{platform}_{canvas[0]}x{canvas[1]}.jaxexport"
                (new / name).write_bytes(exported.serialize())
                programs[platform].append({"canvas": list(canvas), "file": name})
        description = describe(weights, test_config, list(leaves), programs, exported)
        description |= {"masks": masks, "batch_size": batch_size, "files": _describe_files(new)}
        (new / "description.json").write_text(json.dumps(description, indent=1) + "\n")
        os.rename(new, path)
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}. Free space or choose another.") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return description


def check_export(path: Path, test_config: TestConfig, platforms: Sequence[str]) -> None:
    """Raises ConfigError for what cannot be exported, before anything is computed."""
    if path.exists():
        raise ConfigError(f"--to: {path} exists. Choose another folder, or remove it first.")
    unknown = [platform for platform in platforms if platform not in get_args(Platform)]
    if unknown or not platforms or len(set(platforms)) < len(platforms):
        known = ", ".join(get_args(Platform))
        raise ConfigError(f"--platforms: expected some of {known}, each once, got {', '.join(platforms) or 'none'}.")
    if is_augmented(test_config):
        raise ConfigError(
            "Test-time augmentation is not exported, because the host merges its detections. Turn it off with "
            "--test.no-augment-flip --test.augment-short-sides."
        )
    if importlib.util.find_spec("flatbuffers") is None:
        raise ConfigError("jax.export needs a package that is missing. Install it with: pip install flatbuffers")


def describe(
    weights: Weights,
    test_config: TestConfig,
    names: list[str],
    programs: Mapping[str, list[dict[str, Any]]],
    exported: jax.export.Exported,
) -> dict[str, Any]:
    """Returns the content of description.json without its files and options. Sizes named b are symbolic."""
    model, test = weights.model, asdict(test_config)
    of_inputs = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][1:]
    of_outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    packages = ["jax", "numpy", "flatbuffers", *["pillow"] * (test_config.resize == "pillow")]
    return {
        "format_version": FORMAT_VERSION,
        "model": asdict(model),
        "step": weights.step,
        "categories": [asdict(category) for category in weights.categories],
        "inputs": {
            "weights": "the arrays of weights.npz in the order of `weights`",
            "images": _describe_array(of_inputs[0]) | {"content": "RGB 0..255, resized, zeros right and below"},
            "image_hw": _describe_array(of_inputs[1]) | {"content": "height and width on the canvas; 0, 0 for filler"},
        },
        "images_dtype": of_inputs[0].dtype.name,
        "normalisation": {
            "in_program": True,
            "mean": list(model.pixel_mean),
            "std": list(model.pixel_std),
            "formula": "(pixels - mean) / std, RGB",
        },
        "outputs": {name: _describe_array(each) | {"content": OUTPUTS[name]} for name, each in of_outputs.items()},
        "results": RESULTS,
        "test": test,
        "programs": programs,
        "weights": names,
        "needs": packages,
        "xla_flags": [
            {name: getattr(fault, name) for name in ("first", "last", "effect", "flag", "source")}
            for fault in FAULTS
            if fault.flag
        ],
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
        "calling_convention_version": exported.calling_convention_version,
        "written": datetime.date.today().isoformat(),
        "loadable": f"JAX promises to load the programs with releases up to {MONTHS_LOADABLE} months newer than the "
        "jax in `versions`, and 3 weeks older. Export again for later ones.",
    }


OUTPUTS = {
    "valid": "whether the slot holds a detection; other slots are zeros",
    "boxes": "x0, y0, x1, y1 in pixels of the canvas",
    "scores": "best first",
    "labels": "1..C: label k is categories[k - 1]; 0 in empty slots",
    "masks": "probabilities that cover the box; sides of 0 without a mask head",
    "heat_maps": "logits of the keypoints [K, h, h] that cover the box; sizes of 0 without a keypoint head",
    "not_finite": "not 0 if a part of the network computed NaN or infinity for the image",
}
RESULTS = {
    "boxes": "float32 [n, 4]: x0, y0, x1, y1 in pixels of the image",
    "scores": "float32 [n], best first",
    "labels": "int64 [n], ids of the categories",
    "masks": "bool [n, H, W] (full), or float32 [n, m, m] probabilities that cover the box (crops); if there is a head",
    "keypoints": "float32 [n, K, 3]: x, y in pixels of the image, and a score; if there is a head",
}


def loader_source() -> str:
    """Returns the text of load.py: the loader's modules one after the other, without their imports of each other."""
    texts = [Path(str(module.__file__)).read_text() for module in LOADER_MODULES]
    kept = ("\n".join(line for line in text.splitlines() if "from mrcnn_jax" not in line) for text in texts)
    return "\n\n\n".join(text.rstrip() for text in kept) + "\n"


def _describe_array(aval: Any) -> dict[str, Any]:
    shape = [side if isinstance(side, int) else str(side) for side in aval.shape]
    return {"shape": shape, "dtype": aval.dtype.name}


def _describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns bytes and SHA-256 of each file."""

    def digest(file: Path) -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    files = sorted(folder.iterdir())
    return {file.name: {"bytes": file.stat().st_size, "sha256": digest(file)} for file in files}
