"""Metrics of training steps, which are read a few steps late so that the device never waits for the host."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np

from mrcnn_jax.errors import NumericalError
from mrcnn_jax.training.metrics_log import MetricsLog, ProgressLine, Stopwatch

LAG = 2
"""Number of later steps that are dispatched before the metrics of a step are read."""

EXPLODED_LOSS = 1e4
"""Loss from which a network cannot recover: its terms are means, and those of a new network add up to about ten."""


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run continues from."""

    step: int
    directory: Path
    """Folder of the checkpoints."""
    saved_steps: Sequence[int]
    """All saved steps."""

    def explain(self, findings: str) -> str:
        """Returns the error message for bad metrics of the first step, which depend only on the checkpoint."""
        if earlier := [step for step in self.saved_steps if step < self.step]:
            way_out = (
                f"Remove {self.directory}/{self.step} to continue from step {max(earlier)} with a lower "
                "--train.learning-rate, or start"
            )
        else:
            way_out = "No earlier checkpoint is kept: start"
        return (
            f"Checkpoint step {self.step} has already exploded: with its parameters, before any update, {findings}. A "
            f"lower --train.learning-rate cannot save it. {way_out} again in a new --workdir with a lower one."
        )


class StepMonitor:
    """Checks that the metrics of every step are finite, and logs and shows every `log_every`-th step.

    The first step of a run that was `resumed` also shows whether its checkpoint has exploded.

    Without a log, as in all processes but process 0, nothing is written.

    Call `flush` before the state is used, for example before it is saved.
    """

    def __init__(
        self,
        log: MetricsLog | None,
        line: ProgressLine,
        *,
        num_steps: int,
        log_every: int,
        batch_size: int,
        num_records: int,
        learning_rate: Callable[[int], float],
        resumed: Resumed | None = None,
    ) -> None:
        self.watch = Stopwatch()
        self.num_left_out = 0
        """Images on all devices that could not be read, in the steps whose metrics have been read."""
        self._log, self._line = log, line
        self._num_steps, self._log_every, self._batch_size = num_steps, log_every, batch_size
        self._num_records, self._learning_rate = num_records, learning_rate
        self._resumed = resumed
        self._pending: deque[tuple[int, Mapping[str, jax.Array], np.ndarray]] = deque()

    def add(self, step: int, metrics: Mapping[str, jax.Array], image_ids: np.ndarray) -> None:
        """Adds the scalar metrics of `step` (the state's count after it) and the ids of its images.

        Raises NumericalError if the metrics of an earlier step, which are read now, are not finite.
        """
        self._pending.append((step, metrics, image_ids))
        if len(self._pending) > LAG:
            self._read(*self._pending.popleft())

    def flush(self) -> None:
        """Reads all pending metrics; raises NumericalError like `add`."""
        while self._pending:
            self._read(*self._pending.popleft())

    def _read(self, step: int, metrics: Mapping[str, jax.Array], image_ids: np.ndarray) -> None:
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        self.watch.count_step()
        self.num_left_out += self._batch_size - round(values["images"])
        not_finite = [name for name, value in values.items() if not math.isfinite(value)]
        if not_finite or step % self._log_every == 0 or step == self._num_steps:
            self._report(step, values)
        is_first = self._resumed is not None and step == self._resumed.step + 1
        if not_finite or (is_first and values["loss/total"] > EXPLODED_LOSS):
            self._refuse(step, values, not_finite, image_ids)

    def _refuse(self, step: int, values: dict[str, float], not_finite: list[str], image_ids: np.ndarray) -> NoReturn:
        # The total is not finite if a term is not, so only the terms are named.
        terms = [name for name in not_finite if name != "loss/total"] or ["loss/total"]
        findings = (
            f"{', '.join(f'{name} is {values[name]:.4g}' for name in terms)} on images "
            f"{', '.join(str(int(image_id)) for image_id in image_ids)}"
        )
        if self._resumed is not None and step == self._resumed.step + 1:
            raise NumericalError(self._resumed.explain(findings))
        raise NumericalError(
            f"Step {step}: {findings}. Nothing has been saved since the last good checkpoint. Inspect these images or "
            "lower --train.learning-rate."
        )

    def _report(self, step: int, values: dict[str, float]) -> None:
        self.watch.lap()
        speed = self.watch.steps_per_second
        values |= {
            "learning_rate": self._learning_rate(step - 1),
            "images_per_second": speed * self._batch_size,
            "epoch": step * self._batch_size / self._num_records,
            "seconds": self.watch.seconds,
        }
        if self._log is not None:
            self._log.write(step, values)
        self._line.show(step, values, seconds_left=(self._num_steps - step) / speed if speed else None)
