"""Exclusive access to the folder of one run."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mrcnn_jax.errors import ConfigError, StorageError


@contextmanager
def claim_workdir(workdir: Path) -> Iterator[None]:
    """Creates the folder, checks that it can be written to, and locks it against other training processes.

    Raises StorageError if it cannot be written to, and ConfigError if another process trains in it. The lock ends with
    its process, so that a killed run leaves none behind.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir) as probe:
            probe.write(b"x")
        lock = (workdir / "train.lock").open("a+")
    except OSError as error:
        raise StorageError(
            f"--workdir {workdir} cannot be written to: {error.strerror}. Choose another folder."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise ConfigError(
                f"Another process ({lock.read().strip() or 'just starting'}) trains in {workdir}. "
                "Stop it first or choose another --workdir."
            ) from error
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {os.uname().nodename}\n")
        lock.flush()
        yield
