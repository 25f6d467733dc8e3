"""The command `mrcnn`, which selects a subcommand and runs it."""

import contextlib
import difflib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from mrcnn_jax import command_names, known_faults
from mrcnn_jax.command_names import COMMANDS

USAGE = 2
"""Exit code for a wrong command line."""


def main() -> None:
    """Runs `mrcnn NAME ...`, or lists the commands if there is no name or --help is given."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("", "-h", "--help"):
        print(describe_commands())
        sys.exit(0 if name else USAGE)
    if name == "--version":
        from mrcnn_jax import __version__

        print(f"mrcnn {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        print(f"error: Unknown command {name!r}: did you mean {close}? See mrcnn --help.", file=sys.stderr)
        sys.exit(USAGE)
    run_command(name, arguments)


def describe_commands() -> str:
    """Returns the text that `mrcnn --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = "usage: mrcnn COMMAND ...\n\nMask R-CNN in JAX: training, inference and evaluation.\n"
    return "\n".join([head, *lines, "\nmrcnn COMMAND --help lists the options of a command."])


def run_command(name: str, arguments: list[str], *, as_script: bool = False) -> None:
    """Runs a command with these arguments and ends the process with one of the documented exit codes."""
    command_names.start(COMMANDS[name].script if as_script else name)
    sys.argv = [command_names.current(), *arguments]
    with explain_missing_packages():
        known_faults.set_flags()  # before anything imports JAX
        command_line = importlib.import_module("mrcnn_jax.cli.command_line")
        module = importlib.import_module(f"mrcnn_jax.cli.{COMMANDS[name].module}")
        # A process that ends with an error must not wait for the others of its run, which may be waiting for it.
        is_shared = COMMANDS[name].in_processes
        leave = importlib.import_module("mrcnn_jax.distributed").leave if is_shared else sys.exit
    command_line.run(module.main, leave=leave)


@contextlib.contextmanager
def explain_missing_packages() -> Iterator[None]:
    """Ends the process with a one-line installation command if a required package is missing."""
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("mrcnn_jax"):
            raise
        requirements = Path(__file__).resolve().parent.parent / "requirements.txt"
        wanted = f"-r {requirements}" if requirements.exists() else "mrcnn-jax"
        install = f"{sys.executable} -m pip install {wanted}"
        print(f"error: {missing.name} is not installed for this Python. Install it with: {install}", file=sys.stderr)
        sys.exit(USAGE)
