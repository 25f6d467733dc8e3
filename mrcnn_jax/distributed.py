"""The processes of one run: how they join, hear of each other's errors, and leave.

All run the same program, each on its own devices and on its own rows of every batch. What only one may do, writing
files, process 0 does. With one process every function here does the obvious thing at once.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mrcnn_jax import errors
from mrcnn_jax.config import DistributedConfig
from mrcnn_jax.errors import ConfigError, DeviceError, UserError

GRACE_SECONDS = 2.0
"""Process 0 leaves later than the others by this: its end ends all, and they too have an error to tell."""

MEETING_SECONDS = 3600
"""A process that waits for the others for longer than this gives up; one that died is noticed by its heartbeat."""

SIZE_VARIABLES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Environment variables of launchers that say how many processes they started."""

_meetings = itertools.count()


def join_processes(distributed_config: DistributedConfig) -> None:
    """Meets the other processes, before anything uses a device; alone if neither config nor environment names any.

    Raises ConfigError if the environment names other processes but not how to reach them, and DeviceError if they do
    not come.
    """
    options: dict[str, Any] = {
        "initialization_timeout": distributed_config.start_seconds,
        "heartbeat_timeout_seconds": distributed_config.heartbeat_seconds,
        "shutdown_timeout_seconds": distributed_config.heartbeat_seconds,
    }
    try:
        if distributed_config.coordinator:
            jax.distributed.initialize(
                distributed_config.coordinator,
                distributed_config.num_processes,
                distributed_config.process_id,
                cluster_detection_method="deactivate",  # or it would give each process one device of several
                **options,
            )
        else:
            jax.distributed.initialize(**options)
    except ValueError as error:
        started = [f"{name}={os.environ[name]}" for name in SIZE_VARIABLES if os.environ.get(name, "1") != "1"]
        if "coordinator_address should be defined" not in str(error) or started:
            where = f" ({', '.join(started)})" if started else ""
            raise ConfigError(
                f"The environment{where} does not say where process 0 is: {error} Give --distributed.coordinator "
                "HOST:PORT, --distributed.num-processes and --distributed.process-id."
            ) from error
    except RuntimeError as error:
        raise DeviceError(
            f"The processes did not meet within {distributed_config.start_seconds} s: {str(error).splitlines()[0]}. "
            "Check that all were started and can reach process 0."
        ) from error


def is_primary() -> bool:
    """Whether this is the process that writes files and tells people."""
    return jax.process_index() == 0


def gather_bytes(content: bytes) -> list[bytes]:
    """The content of each process, in their order; all have to call it."""
    if jax.process_count() == 1:
        return [content]
    wait_for_all("gather")
    sizes = multihost_utils.process_allgather(np.array(len(content), np.int32)).tolist()
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def wait_for_all(name: str) -> None:
    """Returns when all processes are here; `name` says where.

    Unlike a collective, whose first use waits for half a minute on some backends, it has time for compilations.
    """
    if jax.process_count() > 1:
        everyone = set(range(jax.process_count()))  # named one by one, they meet without their devices
        key = f"{name} {next(_meetings)}"
        ocp.multihost.sync_global_processes(key, timeout=MEETING_SECONDS, processes=everyone)


@contextmanager
def shared_errors() -> Iterator[None]:
    """An error that one process raises inside is raised by all, when all are through.

    Without it the others would wait for one that is gone.
    """
    raised: Exception | None = None
    try:
        yield
    except Exception as error:
        raised = error
    if jax.process_count() > 1:
        note = "" if raised is None else json.dumps([type(raised).__name__, str(raised)])
        notes = [json.loads(note) if note else None for note in map(bytes.decode, gather_bytes(note.encode()))]
        failed = [(index, note) for index, note in enumerate(notes) if note is not None]
        if failed and raised is None:
            index, (kind, text) = failed[0]
            known = getattr(errors, kind, None)
            if isinstance(known, type) and issubclass(known, UserError):
                raise known(f"Process {index}: {text}")
            raise DeviceError(f"Process {index} failed: {kind}: {text}")
    if raised is not None:
        raise raised


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code, without waiting for processes that may wait for this one."""
    if code in (0, errors.Preempted.exit_code) or not jax.distributed.is_initialized():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    if is_primary():
        time.sleep(GRACE_SECONDS)
    os._exit(code)
