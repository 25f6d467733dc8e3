"""Errors that a user can act on, each with the exit code that the scripts end with.

The message is one line: what is wrong, where, what to do. Anything else that escapes is our bug (exit 1, traceback).
"""


class UserError(Exception):
    """Base of all errors that are shown as one line `error: ...` instead of a traceback."""

    exit_code = 1


class ConfigError(UserError):
    """Usage or configuration (exit 2)."""

    exit_code = 2


class DataError(UserError):
    """Bad data or a bad file (exit 3)."""

    exit_code = 3


class NumericalError(UserError):
    """A loss, gradient, parameter or output of the network that is not finite, or exploded (exit 4)."""

    exit_code = 4


class StorageError(UserError):
    """Disk full, folder not writable, checkpoint that cannot be saved (exit 5)."""

    exit_code = 5


class DeviceError(UserError):
    """Device missing or out of memory (exit 6)."""

    exit_code = 6


class Preempted(UserError):
    """The process was told to stop; its state is saved and the same command continues it (exit 75)."""

    exit_code = 75
