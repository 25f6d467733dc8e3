"""Lets a script of a checkout run without an installed package. It has to be imported first."""

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mrcnn_jax import command_names, known_faults  # noqa: E402
from mrcnn_jax.main import explain_missing_packages, run_command  # noqa: E402

with explain_missing_packages():
    known_faults.set_flags()  # before anything imports JAX


def run(name: str) -> None:
    """Runs the command with the arguments of this process."""
    run_command(name, sys.argv[1:], as_script=True)


def run_main(main: Callable[[], int | None], file: str) -> None:
    """Runs the main function of a script that is not a command of the package."""
    from mrcnn_jax.cli import command_line

    command_names.start(Path(file).name)
    command_line.run(main)
