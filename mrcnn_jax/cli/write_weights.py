"""Writes a kept checkpoint of a run as a weights folder.

mrcnn weights --workdir runs/NAME --step best --to weights/NAME
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from mrcnn_jax import command_names
from mrcnn_jax.cli import command_line
from mrcnn_jax.run_folder import check_source
from mrcnn_jax.training.early_stopping import describe_score
from mrcnn_jax.training.kept_weights import write_kept_weights


@dataclass(frozen=True)
class Arguments:
    workdir: Path = command_line.Required
    """Folder of the run."""
    step: str = command_line.Required
    """Kept checkpoint: best (by its score), last, or the number of a step. An unknown number lists those that exist."""
    to: Path = command_line.Required
    """Weights folder to write. An existing weights folder is replaced."""


def main() -> None:
    """Reads the checkpoint, verifies it and writes the folder."""
    arguments = command_line.parse(
        Arguments(),
        "Writes a kept checkpoint of a run as a weights folder: parameters, or their averages with --train.ema-decay.",
    )
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs tracebacks of errors that it also raises
    written = write_kept_weights(arguments.workdir, arguments.step, arguments.to)
    kind = "averaged weights" if written.is_averaged else "weights"
    score = (
        "" if written.score is None else f" ({describe_score(written.score, written.best_by)} in the run's evaluation)"
    )
    print(f"Wrote the {kind} of step {written.step}{score} to {arguments.to}{', replacing it' * written.has_replaced}")
    if arguments.to.absolute() == (arguments.workdir / "weights").absolute() and (
        note := check_source(arguments.workdir)
    ):
        print(f"Note: {note}")
    print(f"Next: {command_names.typed('predict')} --weights {arguments.to} --output predictions IMAGES")
