"""Exports a model as programs and a loader that need neither this package nor OpenCV.

mrcnn export --weights runs/NAME --to exported/NAME --canvas 800x1344
mrcnn export --weights runs/NAME --to exported/NAME --canvas 800x1344 --form onnx
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.weights_option import default_test_config, note_source
from mrcnn_jax.config import SIZE_DIVISOR, Canvas, TestConfig
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inference.export import Platform, check_export, export_model
from mrcnn_jax.inference.export_folder import MasksForm
from mrcnn_jax.inference.export_onnx import check_onnx_export, export_onnx
from mrcnn_jax.weights.folder import load_weights


@dataclass(frozen=True)
class Arguments:
    weights: Path = command_line.Required
    """Weights folder, or the workdir of a run."""
    to: Path = command_line.Required
    """Folder to write, which must not exist."""
    form: Literal["stablehlo", "onnx"] = "stablehlo"
    """Programs for JAX (stablehlo), or ONNX files for onnxruntime, whose conversion needs an environment of its own."""
    canvas: Canvas | None = None
    """Padded size of the network input. Without it, every canvas of the test settings has a program of its own."""
    batch_size: int | None = None
    """Fixed number of images of a call, which the loader fills up to; without it, any number. ONNX files take one."""
    platforms: tuple[Platform, ...] = ("cpu", "cuda", "tpu")
    """Platforms to lower for; none of them needs to be present. ONNX files have none."""
    masks: MasksForm = "full"
    """Masks that the loader returns: bool arrays of the image (full), or probabilities that cover the box (crops)."""
    test: TestConfig = field(default_factory=TestConfig)
    """Test settings; the defaults are those of the weights folder."""


def main() -> None:
    """Reads the weights, lowers the programs and writes the folder."""
    arguments = command_line.parse(
        Arguments(test=default_test_config()),
        "Exports a model as StableHLO programs with a loader that needs jax, numpy and flatbuffers alone, or as ONNX "
        "files with a loader that needs onnxruntime and numpy.",
    )
    test_config = arguments.test
    if arguments.canvas is not None:
        if min(arguments.canvas) < 1 or any(side % SIZE_DIVISOR for side in arguments.canvas):
            raise ConfigError(
                f"--canvas: expected sides that are multiples of {SIZE_DIVISOR}, got "
                f"{arguments.canvas[0]}x{arguments.canvas[1]}."
            )
        test_config = replace(test_config, canvases=(arguments.canvas,))
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise ConfigError(f"--batch-size: expected 1 or more, got {arguments.batch_size}.")
    path = arguments.to.absolute()
    if arguments.form == "onnx":
        if arguments.batch_size not in (None, 1):
            raise ConfigError(f"--batch-size: ONNX files take one image at a time, got {arguments.batch_size}.")
        if arguments.platforms != Arguments().platforms:
            raise ConfigError("--platforms: ONNX files are the same for all platforms. Leave the option out.")
        check_onnx_export(path, test_config)
    else:
        check_export(path, test_config, arguments.platforms)
    weights = load_weights(arguments.weights)
    note_source(arguments.weights)
    if arguments.form == "onnx":
        command_line.note("Converting to ONNX, and comparing each part in onnxruntime with JAX")
        description = export_onnx(path, weights, test_config, masks=arguments.masks)
    else:
        command_line.note(f"Lowering for {', '.join(arguments.platforms)}")
        description = export_model(
            path,
            weights,
            test_config,
            platforms=arguments.platforms,
            masks=arguments.masks,
            batch_size=arguments.batch_size,
        )
    for name, file in description["files"].items():
        print(f"{arguments.to / name}  {file['bytes'] / 1e6:.1f} MB")
    print(f"Next: import load from {arguments.to} (needs {', '.join(description['needs'])}); see its first lines.")
