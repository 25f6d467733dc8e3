"""The global order of training: the records of each batch, and the canvas on which they are placed.

Every epoch is a permutation of all records. Each record joins the queue of its canvas, and a queue that reaches the
batch size becomes the next batch; records left in the queues carry over into the next epoch. Nothing is replayed:
record i of a canvas's endless queue is in epoch i // n at rank i % n (n records on that canvas), so any batch can be
computed directly, and the plan is a pure function of (canvas of each record, batch size, seed). A record shown more
than once per epoch counts as several records here, each with its own `sample_index` and thus its own augmentation.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

_ORDER = 1  # part of the seed, so that draws for different purposes never share one
_AUGMENTATION = 2


@dataclass(frozen=True)
class BatchPlan:
    """The records of one global batch, before it is divided among processes."""

    canvas: int  # index into the config's canvases
    records: np.ndarray  # [B] int64
    sample_index: np.ndarray  # [B] int64, epoch * number of records + record


def augmentation_rng(seed: int, sample_index: int) -> np.random.Generator:
    """Returns the random generator for one sample. It depends only on the run's seed and the sample."""
    return np.random.default_rng((seed, _AUGMENTATION, sample_index))


class Plan:
    """All batches of a run. It is safe to read from several threads."""

    def __init__(self, canvas_of_record: np.ndarray, *, batch_size: int, seed: int) -> None:
        """Takes the canvas index of each record, `canvas_of_record` [N]. Raises ValueError if there are no records."""
        if len(canvas_of_record) == 0:
            raise ValueError("Expected at least one record, got none.")
        self._canvas_of_record = np.asarray(canvas_of_record)
        self._batch_size = batch_size
        self._seed = seed
        self._num_records = len(canvas_of_record)
        self._canvases, self._counts = np.unique(self._canvas_of_record, return_counts=True)  # records of each canvas
        # A batch extends back over as many epochs as its canvas needs to fill it.
        self._queues = lru_cache(maxsize=4 + batch_size // int(self._counts.min()))(self._make_queues)
        self._epoch_batches = lru_cache(maxsize=4)(self._make_epoch_batches)

    def __getitem__(self, step: int) -> BatchPlan:
        """Returns the global batch of this step, 0 or more."""
        epoch = self._epoch_of(step)
        queue, first = self._epoch_batches(epoch)[step - self._num_batches_before(epoch)]
        items = np.arange(first, first + self._batch_size)
        epochs, ranks = np.divmod(items, self._counts[queue])
        records = np.array([self._queues(int(e))[queue][r] for e, r in zip(epochs, ranks, strict=True)], np.int64)
        return BatchPlan(int(self._canvases[queue]), records, epochs * self._num_records + records)

    def _num_batches_before(self, epoch: int) -> int:
        """Returns the number of batches completed in the epochs before this one."""
        return int((epoch * self._counts // self._batch_size).sum())

    def _epoch_of(self, step: int) -> int:
        """Returns the epoch in which the batch of this step is completed."""
        low, high = 0, 1
        while self._num_batches_before(high) <= step:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._num_batches_before(middle) <= step else (low, middle)
        return low

    def _permutation(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, _ORDER, epoch)))
        return rng.permutation(self._num_records)

    def _make_queues(self, epoch: int) -> list[np.ndarray]:
        """Returns the records that this epoch adds to each queue, in order."""
        permutation = self._permutation(epoch)
        canvases = self._canvas_of_record[permutation]
        return [permutation[canvases == canvas] for canvas in self._canvases]

    def _make_epoch_batches(self, epoch: int) -> np.ndarray:
        """Returns (queue, position of its first item in that queue) for each batch completed in this epoch."""
        canvases = self._canvas_of_record[self._permutation(epoch)]
        rows: list[Any] = []
        for queue, canvas in enumerate(self._canvases):
            count = int(self._counts[queue])
            starts = np.arange(
                epoch * count // self._batch_size * self._batch_size,
                (epoch + 1) * count // self._batch_size * self._batch_size,
                self._batch_size,
            )
            last_rank = starts + self._batch_size - 1 - epoch * count
            completed_at = np.flatnonzero(canvases == canvas)[last_rank]
            rows.append(np.stack([completed_at, np.full_like(starts, queue), starts], axis=1))
        batches = np.concatenate(rows)  # [batches, 3]
        return batches[np.argsort(batches[:, 0]), 1:]
