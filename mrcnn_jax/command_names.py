"""The commands: their names, where they are implemented, and how the user of this process types them.

An installed package has `mrcnn train`; a checkout has `python scripts/train.py` beside it. Messages that tell a user
what to type next say it in the form that was used.
"""

import re
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand of `mrcnn`."""

    module: str
    """Of `mrcnn_jax.cli`; has a `main()`."""
    script: str
    """File in `scripts` of a checkout."""
    summary: str
    in_processes: bool = False
    """Several processes may run it together (`mrcnn_jax.distributed`)."""


COMMANDS = {
    "prepare": Command("prepare_data", "prepare_data.py", "Convert a data set (COCO, Cityscapes, generated shapes)."),
    "train": Command("train_model", "train.py", "Train the model of a preset, or continue a run.", in_processes=True),
    "evaluate": Command("evaluate_weights", "evaluate.py", "Score weights on a prepared data set.", in_processes=True),
    "predict": Command("predict_images", "predict.py", "Detect objects in images."),
    "import": Command("import_weights", "import_weights.py", "Convert a checkpoint of torchvision or Detectron2."),
    "check-data": Command("check_data", "check_data.py", "Compare a prepared data set with what the heads can learn."),
    "check-machine": Command("check_machine", "check_machine.py", "Check that this device computes correctly."),
    "benchmark": Command("benchmark", "benchmark.py", "Time inference or a training step."),
    "benchmark-ops": Command("benchmark_ops", "benchmark_ops.py", "Time RoIAlign, NMS and other operations alone."),
    "benchmark-data": Command("benchmark_data", "benchmark_data.py", "Time the input pipeline."),
    "benchmark-restart": Command("benchmark_restart", "benchmark_restart.py", "Time the restart of a run."),
    "tpu-compile": Command("tpu_compile", "tpu_compile.py", "Compile for a TPU slice without one; print its costs."),
    "gpu-compile": Command("gpu_compile", "gpu_compile.py", "Compile for GPUs without one; print their costs."),
}
PRESET = "PRESET"
"""What usage lines call the name or the path of a preset."""

_SCRIPT = "python scripts/"
_typed = ["mrcnn"]


def start(name: str) -> None:
    """Notes the command that this process runs: a name of COMMANDS, or the file of a script of a checkout."""
    _typed[0] = f"mrcnn {name}" if name in COMMANDS else _SCRIPT + name


def current() -> str:
    """Returns what the user typed for the command that this process runs."""
    return _typed[0]


def typed(name: str) -> str:
    """Returns what to type for a command: `mrcnn train`, or `python scripts/train.py` where a script runs."""
    return _SCRIPT + COMMANDS[name].script if current().startswith(_SCRIPT) else f"mrcnn {name}"


def as_typed(text: str) -> str:
    """Returns the text with `mrcnn NAME` in the form that was used."""
    names = "|".join(sorted(COMMANDS, key=len, reverse=True))
    return re.sub(rf"\bmrcnn ({names})\b", lambda match: typed(match[1]), text)
