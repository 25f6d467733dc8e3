"""Metrics of training steps, which are read a few steps late so that the device never waits for the host."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import NoReturn

import jax
import numpy as np

from mrcnn_jax.errors import NumericalError
from mrcnn_jax.training.advice import Advice
from mrcnn_jax.training.metrics_log import MetricsLog, ProgressLine, Stopwatch
from mrcnn_jax.training.outcome import EXPLODED_LOSS

LAG = 2
"""Number of later steps that are dispatched before the metrics of a step are read."""


class StepMonitor:
    """Checks that the metrics of every step are finite, and logs and shows every `log_every`-th step.

    The first step after `start_step` also shows whether the checkpoint of that step has exploded.

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
        advice: Advice | None = None,
        start_step: int = 0,
    ) -> None:
        self.watch = Stopwatch()
        self._advice = advice
        self.num_left_out = 0
        """Images on all devices that could not be read, in the steps whose metrics have been read."""
        self._log, self._line = log, line
        self._num_steps, self._log_every, self._batch_size = num_steps, log_every, batch_size
        self._num_records, self._learning_rate = num_records, learning_rate
        self._start_step = start_step
        self.losses: dict[int, float] = {}
        """Total losses of the steps that follow a saved one, computed with its parameters, and of the step that failed.

        NaN stands for any metric that is not finite, unless the loss itself has exploded.
        """
        self._saved = {start_step} - {0}
        self._pending: deque[tuple[int, Mapping[str, jax.Array], np.ndarray]] = deque()

    def add(self, step: int, metrics: Mapping[str, jax.Array], image_ids: np.ndarray) -> None:
        """Adds the scalar metrics of `step` (the state's count after it) and the ids of its images.

        Raises NumericalError if the metrics of an earlier step, which are read now, are not finite.
        """
        self._pending.append((step, metrics, image_ids))
        if len(self._pending) > LAG:
            self._read(*self._pending.popleft())

    def mark_saved(self, step: int) -> None:
        """Records that a checkpoint was saved, before the next step is added."""
        self._saved.add(step)

    def flush(self) -> None:
        """Reads all pending metrics; raises NumericalError like `add`."""
        while self._pending:
            self._read(*self._pending.popleft())

    def _read(self, step: int, metrics: Mapping[str, jax.Array], image_ids: np.ndarray) -> None:
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        self.watch.count_step()
        self.num_left_out += self._batch_size - round(values["images"])
        if self._advice is not None:
            self._advice.check_step(step, values)
        not_finite = [name for name, value in values.items() if not math.isfinite(value)]
        if not_finite or step % self._log_every == 0 or step == self._num_steps:
            self._report(step, values)
        if not_finite or step - 1 in self._saved:
            loss = values["loss/total"]
            self.losses[step] = math.nan if not_finite and loss <= EXPLODED_LOSS else loss
        if not_finite or (self._is_first_of_resumed(step) and values["loss/total"] > EXPLODED_LOSS):
            self._refuse(step, values, not_finite, image_ids)

    def _refuse(self, step: int, values: dict[str, float], not_finite: list[str], image_ids: np.ndarray) -> NoReturn:
        # The total is not finite if a term is not, so only the terms are named.
        terms = [name for name in not_finite if name != "loss/total"] or ["loss/total"]
        findings = (
            f"{', '.join(f'{name} is {values[name]:.4g}' for name in terms)} on images "
            f"{', '.join(str(int(image_id)) for image_id in image_ids)}"
        )
        if self._is_first_of_resumed(step):
            raise NumericalError(
                f"Checkpoint step {step - 1} has already exploded: with its parameters, before any update, {findings}."
            )
        raise NumericalError(f"Step {step}: {findings}. Inspect these images or lower --train.learning-rate.")

    def _is_first_of_resumed(self, step: int) -> bool:
        """Returns whether the metrics of this step depend only on the checkpoint that the run continues from."""
        return 0 < self._start_step == step - 1

    def _report(self, step: int, values: dict[str, float]) -> None:
        self.watch.lap()
        speed = self.watch.steps_per_second
        values |= {
            "learning_rate": self._learning_rate(step - 1),
            "images_per_second": speed * self._batch_size,
            "epoch": step * self._batch_size / self._num_records,
            "seconds": self.watch.seconds,
            "waiting_share": self.watch.waiting_share,
        }
        if self._advice is not None:
            self._advice.check_waiting(self.watch.measured_seconds, self.watch.waited_seconds)
        if self._log is not None:
            self._log.write(step, values)
        self._line.show(step, values, seconds_left=(self._num_steps - step) / speed if speed else None)
