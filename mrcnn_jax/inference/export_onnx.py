"""Export of a model as ONNX files of the network's parts, between which the loader selects boxes in NumPy.

    exported/load.py                    the loader: onnxruntime and numpy alone
    exported/description.json           parts, inputs, outputs, settings, categories, versions, checksums
    exported/network_HEIGHTxWIDTH.onnx  images to features and outputs of the RPN, for each canvas
    exported/boxes_HEIGHTxWIDTH.onnx    RoIAlign and box head; boxes_1, boxes_2, ... in a cascade
    exported/masks_HEIGHTxWIDTH.onnx    RoIAlign and mask head, if the model has one
    exported/heat_maps_HEIGHTxWIDTH.onnx    RoIAlign and keypoint head, if the model has one

NMS and the selection of the best are not part of the files: the loader resolves ties and limits as the Predictor does.
The weights are inside the files. Each file is compared with JAX before the folder is kept.
"""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrcnn_jax.config import Canvas, ModelConfig, TestConfig
from mrcnn_jax.detection.image_anchors import cell_anchors
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inference import (
    exported_inputs,
    exported_onnx_loader,
    exported_outputs,
    exported_selection,
    paste_masks,
)
from mrcnn_jax.inference.export_folder import IMAGES, MasksForm, check_folder, describe_model, write_folder
from mrcnn_jax.inference.network_parts import NetworkPart, make_parts, stage_names
from mrcnn_jax.inference.rewritten_program import rewrite_function
from mrcnn_jax.weights.folder import Weights

LOADER_MODULES = (exported_onnx_loader, exported_selection, exported_inputs, exported_outputs, paste_masks)
LARGEST_DIFFERENCE = 1e-2
"""Largest difference between onnxruntime and JAX that is accepted, as a share of the largest value of an output.
Rounding of large logits changes probabilities by a thousandth."""
CONTENTS = {
    "images": IMAGES,
    "image_hw": "height and width of the image on the canvas",
    "rois": "x0, y0, x1, y1 in pixels of the canvas; zeros in unused rows",
    "labels": "1..C, the class whose mask is returned; 0 in unused rows",
    "features": "channels last, at this stride",
    "logits": "objectness logits by row, column and anchor, at this stride",
    "deltas": "dx, dy, dw, dh of the anchors of each cell, at this stride",
    "class_logits": "of each RoI; column 0 is the background",
    "box_deltas": "dx, dy, dw, dh of each RoI and class",
    "masks": "probabilities that cover the RoI, of its label",
    "heat_maps": "logits of the keypoints that cover the RoI",
}


def export_onnx(
    path: str | Path, weights: Weights, test_config: TestConfig, *, masks: MasksForm = "full"
) -> dict[str, Any]:
    """Writes the folder and returns the content of its description.json.

    The network computes in float32, whatever the dtype of the model. Arguments are those of `export_model`; the files
    are for one image at a time.

    Raises:
        ConfigError: the folder exists, a setting cannot be exported, jax2onnx or onnxruntime is not installed, a part
            cannot be converted, or onnxruntime computes something else.
        StorageError: the folder cannot be written.
    """
    path = Path(path).absolute()
    check_onnx_export(path, test_config)
    model_config = replace(weights.model, dtype="float32")

    def write(folder: Path) -> dict[str, Any]:
        programs, differences = [], {}
        for canvas in test_config.canvases:
            parts = make_parts(weights.variables, model_config, test_config, canvas)
            files = {name: f"{name}_{canvas[0]}x{canvas[1]}.onnx" for name in parts}
            known = _example_inputs(weights.model.num_classes, test_config, canvas)
            for name, part in parts.items():
                convert_part(part, name, folder / files[name])
                differences[files[name]] = compare_part(part, name, folder / files[name], known)
            programs.append({"canvas": list(canvas), "files": files, "parts": _describe_parts(parts)})
        return describe(weights, test_config, programs) | {"masks": masks, "differences": differences}

    return write_folder(path, LOADER_MODULES, write)


def check_onnx_export(path: Path, test_config: TestConfig) -> None:
    """Raises ConfigError for what cannot be exported, before anything is computed."""
    check_folder(path, test_config)
    if missing := [name for name in ("jax2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"--form onnx needs {' and '.join(missing)}, which are not installed. They need an environment of their "
            "own, because jax2onnx requires an old Orbax: see docs/export.md."
        )


def describe(weights: Weights, test_config: TestConfig, programs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the content of description.json without its files and options."""
    model = weights.model
    packages = ("jax", "jaxlib", "flax", "numpy", "jax2onnx", "onnxruntime")
    return describe_model(weights, test_config, packages) | {
        "form": "onnx",
        "programs": programs,
        "images_dtype": "float32" if test_config.resize == "float" else "uint8",
        "contents": CONTENTS,
        **describe_selection(model),
        "heads": {
            "masks": [model.mask_size if model.masks else 0] * 2,
            "heat_maps": [model.num_keypoints, *[model.heat_map_size if model.num_keypoints else 0] * 2],
        },
        "needs": ["onnxruntime", "numpy", *["pillow"] * (test_config.resize == "pillow")],
    }


def describe_selection(model_config: ModelConfig) -> dict[str, Any]:
    """Returns what the loader needs besides settings to select proposals and detections."""
    levels = zip(model_config.feature_strides, cell_anchors(model_config), strict=True)
    return {
        "levels": [{"stride": stride, "cell_anchors": anchors.tolist()} for stride, anchors in levels],
        "stages": [
            {"part": name, "delta_weights": list(model_config.stage_delta_weights(stage))}
            for stage, name in enumerate(stage_names(model_config))
        ],
    }


def _describe_parts(parts: dict[str, NetworkPart]) -> dict[str, Any]:
    return {
        name: {
            "inputs": {
                each: {"shape": list(spec.shape), "dtype": spec.dtype.name} for each, spec in part.inputs.items()
            },
            "outputs": list(part.outputs),
        }
        for name, part in parts.items()
    }


def convert_part(part: NetworkPart, name: str, path: Path) -> None:
    """Writes a part as an ONNX file."""
    import jax2onnx

    specs = list(part.inputs.values())
    function = rewrite_function(part.compute, specs)
    with _quiet("onnx_ir", "jax2onnx"):
        try:
            jax2onnx.to_onnx(
                lambda *values: tuple(function(*values)),
                specs,
                model_name=name,
                return_mode="file",
                export_mode="web",  # a single file
                output_path=str(path),
                input_names=list(part.inputs),
                output_names=list(part.outputs),
            )
        except OSError:
            raise
        except Exception as error:
            raise _refusal(name, "jax2onnx cannot convert it", error) from error


def compare_part(part: NetworkPart, name: str, path: Path, known: dict[str, np.ndarray]) -> float:
    """Returns the largest difference between onnxruntime and JAX as a share of the largest value of an output.

    Adds the outputs to the arrays that are known to the next parts. ConfigError if the difference is too large.
    """
    import onnxruntime

    inputs = {each: known[each] for each in part.inputs}
    if "rois" in inputs:  # of which the parts take different numbers
        inputs["rois"] = inputs["rois"][:, : part.inputs["rois"].shape[1]]
    expected = [np.asarray(output) for output in jax.jit(part.compute)(*inputs.values())]
    known.update(zip(part.outputs, expected, strict=True))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = session.run(list(part.outputs), inputs)
    except Exception as error:  # onnxruntime's exceptions have no common class
        raise _refusal(name, "onnxruntime refuses its ONNX file", error) from error
    shares = [
        float(np.abs(one - other).max(initial=0.0) / max(np.abs(other).max(initial=0.0), 1e-6))
        for one, other in zip(found, expected, strict=True)
    ]
    if not max(shares) <= LARGEST_DIFFERENCE:  # also for NaN
        raise ConfigError(
            f"This model was not exported to ONNX: in the part {name}, onnxruntime and JAX differ by {max(shares):.2g} "
            f"of the largest value, more than {LARGEST_DIFFERENCE:g}."
        )
    return max(shares)


def _example_inputs(num_classes: int, test_config: TestConfig, canvas: Canvas) -> dict[str, np.ndarray]:
    """Returns random inputs of all parts: an image of three quarters of each side, and RoIs, some of them empty."""
    rng = np.random.default_rng(0)
    height, width = (max(side * 3 // 4, 1) for side in canvas)
    images = np.zeros((1, *canvas, 3), np.float32 if test_config.resize == "float" else np.uint8)
    images[:, :height, :width] = rng.integers(0, 256, (height, width, 3))
    count = max(test_config.post_nms_top_n, test_config.max_detections)
    sides = np.array([width, height]) * rng.uniform(0.0, 1.0, (1, count, 2)) ** 2
    corners = rng.uniform(0.0, 1.0, (1, count, 2)) * (np.array([width, height]) - sides)
    rois = np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)
    rois[:, ::8] = 0.0
    labels = rng.integers(0, num_classes + 1, test_config.max_detections).astype(np.int32)
    return {"images": images, "image_hw": np.array([[height, width]], np.int32), "rois": rois, "labels": labels}


def _refusal(name: str, reason: str, error: Exception) -> ConfigError:
    first_line = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return ConfigError(f"This model was not exported to ONNX: in the part {name}, {reason} ({first_line}).")


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Keeps the warnings of libraries about their own conversion out of the output."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
