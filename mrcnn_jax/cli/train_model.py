"""Trains the model of a preset. Running the same command again continues from the newest valid checkpoint."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import jax

from mrcnn_jax.cli import command_line
from mrcnn_jax.config import Config, DistributedConfig
from mrcnn_jax.distributed import join_processes
from mrcnn_jax.training.loop import train
from mrcnn_jax.training.program_cache import programs_folder


@dataclass(frozen=True)
class Arguments:
    """A run and its settings."""

    config: command_line.Inline[Config]
    workdir: Path = command_line.Required
    """Folder of the run: checkpoints, curves, scores, pictures, weights and compiled programs are written here."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """How the processes of a run on several machines find each other."""


def keep_programs(workdir: Path) -> None:
    """Puts JAX's cache into the workdir for restarts, unless JAX_COMPILATION_CACHE_DIR names another folder."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(programs_folder(workdir)))


def main() -> None:
    """Reads the preset and overrides, and trains."""
    config, options = command_line.split_preset()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs tracebacks of errors that it also raises
    arguments = command_line.parse(Arguments(config), __doc__ or "", options, usage="PRESET")
    keep_programs(arguments.workdir)
    join_processes(arguments.distributed)
    train(arguments.config, arguments.workdir)
