"""Trains the model of a preset. Running the same command again continues from the newest valid checkpoint."""

import _cli  # isort: skip

import hashlib
import logging
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import jax

from mrcnn_jax.config import Config, DistributedConfig
from mrcnn_jax.processes import join_processes, leave
from mrcnn_jax.training.loop import train


@dataclass(frozen=True)
class Arguments:
    """A run and its settings."""

    config: _cli.Inline[Config]
    workdir: Path = _cli.Required
    """Folder of the run: checkpoints, curves, scores, pictures, weights and compiled programs are written here."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """How the processes of a run on several machines find each other."""


def keep_programs(workdir: Path) -> None:
    """Keeps compiled programs in the workdir, for a restart to find; JAX_COMPILATION_CACHE_DIR names another folder.

    Programs for a CPU may use instructions that another lacks, so each kind of CPU has its own folder.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    kind = hashlib.sha256("".join(flags[:1]).encode()).hexdigest()[:8]
    jax.config.update(
        "jax_compilation_cache_dir", str(workdir.absolute() / "programs" / f"{platform.machine()}-{kind}")
    )


def main() -> None:
    """Reads preset and overrides and trains."""
    config, options = _cli.split_preset()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs the tracebacks of what it raises
    arguments = _cli.parse(Arguments(config), __doc__ or "", options, usage="configs/NAME.py")
    keep_programs(arguments.workdir)
    join_processes(arguments.distributed)
    train(arguments.config, arguments.workdir)


if __name__ == "__main__":
    _cli.run(main, leave=leave)
