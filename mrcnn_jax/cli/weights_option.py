"""The test settings of a weights folder as defaults of `--test.*`."""

import argparse
from pathlib import Path

from mrcnn_jax.cli import command_line
from mrcnn_jax.config import TestConfig
from mrcnn_jax.run_folder import check_source, describe_source
from mrcnn_jax.weights.folder import read_test_config


def default_test_config(argv: list[str] | None = None) -> TestConfig:
    """Returns the test settings of the folder that `--weights` names on the command line, or the general defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--weights", default=None)
    try:
        known, _ = parser.parse_known_args(argv)
    except argparse.ArgumentError:  # --weights without a folder: parsing the whole command line reports it
        return TestConfig()
    return TestConfig() if known.weights is None else read_test_config(known.weights)


def note_source(weights: Path) -> None:
    """Prints on stderr which weights are used, of which step, and what of the workdir is of another step."""
    command_line.note(" ".join([f"Weights: {describe_source(weights)}.", check_source(weights)]).strip())
