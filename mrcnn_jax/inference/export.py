"""Export of a model as programs that JAX loads without this package (StableHLO in the files of `jax.export`).

    exported/load.py                        the loader: jax, numpy and flatbuffers alone
    exported/description.json               inputs, results, settings, categories, versions, checksums
    exported/weights.npz                    the variables, shared by all programs
    exported/PLATFORM_HEIGHTxWIDTH.jaxexport    a program for each platform and canvas

The weights are a file of their own. Inside a program they would be stored once for each platform and canvas, up to the
two GiB that the format allows, and compiled as constants. NumPy's format has no such limit and needs no other package.

The programs of different platforms differ, because operations such as RoIAlign and NMS have forms for each platform.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.export
import numpy as np

from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inference import exported_inputs, exported_loader, exported_outputs, paste_masks
from mrcnn_jax.inference.export_folder import IMAGES, MasksForm, check_folder, describe_model, write_folder
from mrcnn_jax.inference.prediction_program import export_prediction_program
from mrcnn_jax.known_faults import FAULTS
from mrcnn_jax.named_leaves import named_leaves
from mrcnn_jax.weights.folder import Weights

Platform = Literal["cpu", "cuda", "tpu"]

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

    def write(folder: Path) -> dict[str, Any]:
        leaves = named_leaves(jax.device_get(dict(weights.variables)))
        with (folder / "weights.npz").open("wb") as file:
            np.savez(file, **leaves)
        programs: dict[str, list[dict[str, Any]]] = {platform: [] for platform in platforms}
        for platform in platforms:
            for canvas in test_config.canvases:
                exported = export_prediction_program(weights.model, test_config, canvas, platform, batch_size)
                name = f"{platform}_{canvas[0]}x{canvas[1]}.jaxexport"
                (folder / name).write_bytes(exported.serialize())
                programs[platform].append({"canvas": list(canvas), "file": name})
        description = describe(weights, test_config, list(leaves), programs, exported)
        return description | {"masks": masks, "batch_size": batch_size}

    return write_folder(path, LOADER_MODULES, write)


def check_export(path: Path, test_config: TestConfig, platforms: Sequence[str]) -> None:
    """Raises ConfigError for what cannot be exported, before anything is computed."""
    check_folder(path, test_config)
    unknown = [platform for platform in platforms if platform not in get_args(Platform)]
    if unknown or not platforms or len(set(platforms)) < len(platforms):
        known = ", ".join(get_args(Platform))
        raise ConfigError(f"--platforms: expected some of {known}, each once, got {', '.join(platforms) or 'none'}.")
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
    of_inputs = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][1:]
    of_outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return describe_model(weights, test_config, ("jax", "jaxlib", "flax", "numpy")) | {
        "form": "stablehlo",
        "inputs": {
            "weights": "the arrays of weights.npz in the order of `weights`",
            "images": _describe_array(of_inputs[0]) | {"content": IMAGES},
            "image_hw": _describe_array(of_inputs[1]) | {"content": "height and width on the canvas; 0, 0 for filler"},
        },
        "images_dtype": of_inputs[0].dtype.name,
        "outputs": {name: _describe_array(each) | {"content": OUTPUTS[name]} for name, each in of_outputs.items()},
        "programs": programs,
        "weights": names,
        "needs": ["jax", "numpy", "flatbuffers", *["pillow"] * (test_config.resize == "pillow")],
        "xla_flags": [
            {name: getattr(fault, name) for name in ("first", "last", "effect", "flag", "source")}
            for fault in FAULTS
            if fault.flag
        ],
        "calling_convention_version": exported.calling_convention_version,
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


def _describe_array(aval: Any) -> dict[str, Any]:
    shape = [side if isinstance(side, int) else str(side) for side in aval.shape]
    return {"shape": shape, "dtype": aval.dtype.name}
