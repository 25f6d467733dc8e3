"""Trains the model of a preset. Running the same command again continues from the newest valid checkpoint."""

import _cli  # isort: skip

import logging
from dataclasses import dataclass, field
from pathlib import Path

from mrcnn_jax.config import Config, DistributedConfig
from mrcnn_jax.processes import join_processes, leave
from mrcnn_jax.training.loop import train


@dataclass(frozen=True)
class Arguments:
    """A run and its settings."""

    config: _cli.Inline[Config]
    workdir: Path = _cli.Required
    """Folder of the run: checkpoints, curves, scores, pictures and weights are written here."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """How the processes of a run on several machines find each other."""


def main() -> None:
    """Reads preset and overrides and trains."""
    config, options = _cli.split_preset()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs the tracebacks of what it raises
    arguments = _cli.parse(Arguments(config), __doc__ or "", options, usage="configs/NAME.py")
    join_processes(arguments.distributed)
    train(arguments.config, arguments.workdir)


if __name__ == "__main__":
    _cli.run(main, leave=leave)
