"""Errors that a user can act on, each with the exit code of the command.

A message is one line that states what is wrong, where, and what to do. Any other exception that escapes is a bug (exit
code 1, with a traceback).
"""

import sys


class UserError(Exception):
    """Base class of all errors that are shown as one line `error: ...` instead of a traceback."""

    exit_code = 1


class ConfigError(UserError):
    """The usage or configuration is wrong (exit code 2)."""

    exit_code = 2


class DataError(UserError):
    """Data or a file is invalid (exit code 3)."""

    exit_code = 3


class NumericalError(UserError):
    """A loss, gradient, parameter or network output is not finite or has exploded (exit code 4)."""

    exit_code = 4


class StorageError(UserError):
    """The disk is full, a folder is not writable, or a checkpoint cannot be saved (exit code 5)."""

    exit_code = 5


class DeviceError(UserError):
    """A device is missing or out of memory (exit code 6)."""

    exit_code = 6


class Preempted(UserError):
    """The process was told to stop; the message states what is saved, and the same command goes on (exit code 75)."""

    exit_code = 75


def missing_extra(need: str, extra: str) -> ConfigError:
    """Returns the error for a missing package of an optional extra; `need` states what needs which package."""
    return ConfigError(
        f'{need}. Install it with: {sys.executable} -m pip install "mrcnn-jax[{extra}]" (in a checkout: ".[{extra}]").'
    )
