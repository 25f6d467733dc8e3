"""Settings that connect the processes of a run. They do not define it: any number of processes can continue it."""

from dataclasses import dataclass
from typing import Annotated

from mrcnn_jax.config.checks import AT_LEAST_1, check_fields, require


@dataclass(frozen=True)
class DistributedConfig:
    """How processes find each other; unnecessary on one machine, on TPU pods, in SLURM steps and under Open MPI."""

    coordinator: str = ""
    """HOST:PORT at which all processes can reach process 0; if empty, it is found in the environment."""
    num_processes: int = 0
    """Number of processes of the run, if a coordinator is given."""
    process_id: int = -1
    """Index of this process from 0, if a coordinator is given."""
    heartbeat_seconds: Annotated[int, AT_LEAST_1] = 30
    """Seconds of silence after which a process is considered dead and all others end."""
    start_seconds: Annotated[int, AT_LEAST_1] = 300
    """Seconds for which a process waits for the others when it starts."""

    def __post_init__(self) -> None:
        check_fields("distributed", self)
        if self.coordinator:
            host, _, port = self.coordinator.rpartition(":")
            require(
                bool(host) and port.isdigit(), f"distributed.coordinator: expected HOST:PORT, got {self.coordinator}."
            )
            require(
                0 <= self.process_id < self.num_processes,
                f"distributed.process_id: expected 0 to {self.num_processes - 1} for distributed.num_processes "
                f"{self.num_processes}, got {self.process_id}.",
            )
        else:
            is_unset = self.num_processes == 0 and self.process_id == -1
            require(is_unset, "distributed.coordinator: needed if num_processes or process_id is given.")
