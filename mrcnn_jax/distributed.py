"""The processes of one run: how they connect, share errors, and exit.

All processes run the same program, each on its own devices and its own rows of every batch. Only process 0 writes
files. In a run of one process, no function here communicates or waits.
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
"""Delay before process 0 exits after an error: its exit ends the others, which first print their own error."""

MEETING_SECONDS = 3600
"""Longest time that a process waits for the others. A process that died is noticed earlier, by its heartbeat."""

SIZE_VARIABLES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Environment variables in which launchers set the number of processes that they started."""

_meetings = itertools.count()


def join_processes(distributed_config: DistributedConfig) -> None:
    """Connects this process to the others of its run; call it before anything uses a device.

    The process runs alone if neither the config nor the environment names others. Raises ConfigError if the environment
    names other processes but not the address of process 0, and DeviceError if they do not join in time.
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
                cluster_detection_method="deactivate",  # detection would give each process only one of its devices
                **options,
            )
        else:
            jax.distributed.initialize(**options)
    except ValueError as error:
        started = [f"{name}={os.environ[name]}" for name in SIZE_VARIABLES if os.environ.get(name, "1") != "1"]
        if "coordinator_address should be defined" not in str(error) or started:
            where = f" ({', '.join(started)})" if started else ""
            raise ConfigError(
                f"The environment{where} does not contain the address of process 0: {error} Set "
                "--distributed.coordinator HOST:PORT, --distributed.num-processes and --distributed.process-id."
            ) from error
    except RuntimeError as error:
        raise DeviceError(
            f"The processes did not connect within {distributed_config.start_seconds} s: {str(error).splitlines()[0]}. "
            "Check that all of them were started and can reach process 0."
        ) from error


def is_primary() -> bool:
    """Returns whether this is process 0, which writes files and reports progress."""
    return jax.process_index() == 0


def gather_bytes(content: bytes) -> list[bytes]:
    """Returns the content of each process, in process order; every process has to call it."""
    if jax.process_count() == 1:
        return [content]
    wait_for_all("gather")
    sizes = multihost_utils.process_allgather(np.array(len(content), np.int32)).tolist()
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def wait_for_all(name: str) -> None:
    """Returns when all processes have called it; `name` identifies the call.

    Unlike a collective, whose first use waits only half a minute on some backends, it leaves time for compilation.
    """
    if jax.process_count() > 1:
        everyone = set(range(jax.process_count()))  # an explicit set is synchronised without using devices
        key = f"{name} {next(_meetings)}"
        ocp.multihost.sync_global_processes(key, timeout=MEETING_SECONDS, processes=everyone)


@contextmanager
def shared_errors() -> Iterator[None]:
    """Makes all processes raise an error that one of them raises inside the block, once all have left the block.

    Otherwise, the other processes would wait for one that has ended.
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
