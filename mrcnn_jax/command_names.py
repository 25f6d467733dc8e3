"""The subcommands of `mrcnn`: their names, their modules, and the form in which the user types them.

An installed package provides `mrcnn train`; a checkout also has `python scripts/train.py`. Messages that suggest a
command use the form in which this process was started.
"""

import re
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand of `mrcnn`."""

    module: str
    """Module of `mrcnn_jax.cli` that defines the command's `main()`."""
    script: str
    """Name of the script in the `scripts` folder of a checkout."""
    summary: str
    in_processes: bool = False
    """Whether several processes may run the command together (`mrcnn_jax.distributed`)."""


COMMANDS = {
    "prepare": Command("prepare_data", "prepare_data.py", "Convert a data set (COCO, Cityscapes, generated shapes)."),
    "suggest-config": Command(
        "suggest_config", "suggest_config.py", "Write a preset for prepared data and this machine."
    ),
    "train": Command("train_model", "train.py", "Train the model of a preset, or continue a run.", in_processes=True),
    "weights": Command("write_weights", "weights.py", "Write a kept checkpoint of a run as a weights folder."),
    "evaluate": Command("evaluate_weights", "evaluate.py", "Score weights on a prepared data set.", in_processes=True),
    "predict": Command("predict_images", "predict.py", "Detect objects in images."),
    "export": Command("export_model", "export.py", "Export a model as programs that need only JAX."),
    "video": Command("annotate_video", "video.py", "Detect and track objects in videos."),
    "demo": Command("serve_demo", "demo.py", "Serve a web page and an HTTP interface for detection."),
    "import": Command("import_weights", "import_weights.py", "Convert a checkpoint of another system."),
    "check-data": Command("check_data", "check_data.py", "Check that a prepared data set preserves its annotations."),
    "inspect-data": Command("inspect_data", "inspect_data.py", "Find faults of prepared data; write a report."),
    "check-machine": Command("check_machine", "check_machine.py", "Check that this device computes correctly."),
    "benchmark": Command("benchmark", "benchmark.py", "Time inference or a training step."),
    "benchmark-ops": Command("benchmark_ops", "benchmark_ops.py", "Time RoIAlign, NMS and other single operations."),
    "benchmark-data": Command("benchmark_data", "benchmark_data.py", "Time the input pipeline."),
    "benchmark-restart": Command("benchmark_restart", "benchmark_restart.py", "Time the restart of a run."),
    "tpu-compile": Command("tpu_compile", "tpu_compile.py", "Compile for TPUs without having any; print the costs."),
    "gpu-compile": Command("gpu_compile", "gpu_compile.py", "Compile for GPUs without having any; print the costs."),
}
PRESET = "PRESET"
"""Placeholder in usage lines for the name or path of a preset."""

_SCRIPT = "python scripts/"
_typed = ["mrcnn"]


def start(name: str) -> None:
    """Records the command that this process runs: a name in COMMANDS, or the file name of a script in a checkout."""
    _typed[0] = f"mrcnn {name}" if name in COMMANDS else _SCRIPT + name


def current() -> str:
    """Returns the command that this process runs, as the user typed it."""
    return _typed[0]


def typed(name: str) -> str:
    """Returns how to type a command: `mrcnn train`, or `python scripts/train.py` if this process runs a script."""
    return _SCRIPT + COMMANDS[name].script if current().startswith(_SCRIPT) else f"mrcnn {name}"


def as_typed(text: str) -> str:
    """Returns the text with every `mrcnn NAME` in the form that the user typed."""
    names = "|".join(sorted(COMMANDS, key=len, reverse=True))
    return re.sub(rf"\bmrcnn ({names})\b", lambda match: typed(match[1]), text)
