"""How the processes of one run find each other. Not part of what defines a run: any number of them continues it."""

from dataclasses import dataclass
from typing import Annotated

from mrcnn_jax.config.checks import AT_LEAST_1, check_fields, require


@dataclass(frozen=True)
class DistributedConfig:
    """Nothing needs to be given on one machine, on TPU pods, in SLURM steps and under Open MPI."""

    coordinator: str = ""
    """HOST:PORT on which process 0 can be reached by all; empty: found in the environment."""
    num_processes: int = 0
    """Processes of the run, if a coordinator is given."""
    process_id: int = -1
    """Which of them this one is, from 0, if a coordinator is given."""
    heartbeat_seconds: Annotated[int, AT_LEAST_1] = 30
    """A process that is silent for so long is taken for dead, and all others end."""
    start_seconds: Annotated[int, AT_LEAST_1] = 300
    """How long a process waits for the others when it starts."""

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
            require(is_unset, "distributed.coordinator: needed beside num_processes and process_id.")
