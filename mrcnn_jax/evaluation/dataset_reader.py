"""Reading a data set in batches of one canvas each, ahead of their use, by one or several processes."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from mrcnn_jax.config import Canvas, TestConfig
from mrcnn_jax.data.data_findings import check_budget
from mrcnn_jax.data.dataset import Dataset, Record
from mrcnn_jax.data.images import ImageError
from mrcnn_jax.errors import DataError
from mrcnn_jax.inference.batches import PlannedBatch, plan_batches
from mrcnn_jax.integers import ceil_div

NUM_READERS = 4
"""Threads that read, decode and resize images, each for one batch."""


class IndexedBatch(Protocol):
    """A batch that contains the images with these indices in its first slots."""

    @property
    def indices(self) -> tuple[int, ...]:
        """Indices of the images in the data set."""


AnyBatch = TypeVar("AnyBatch", bound=IndexedBatch)


class DatasetReader(ABC, Generic[AnyBatch]):
    """Reads a data set in batches ahead of their use, and counts the images that cannot be decoded by reason.

    Part (i, n) consists of every n-th batch from the i-th on; `before_batch` is called equally often in all parts.
    """

    def __init__(
        self,
        dataset: Dataset,
        test_config: TestConfig,
        batch_size: int,
        max_skip_fraction: float,
        *,
        part: tuple[int, int] = (0, 1),
        before_batch: Callable[[], None] | None = None,
    ) -> None:
        self.dataset = dataset
        self.test = test_config
        self.batch_size = batch_size
        self.skipped: dict[str, int] = {}
        self._max_skip_fraction = max_skip_fraction
        self._before_batch = before_batch
        index, count = part
        batches = plan_batches(dataset.sizes, test_config, batch_size)
        self._batches = batches[index::count]
        self._num_rounds = ceil_div(len(batches), count)
        self.num_images = sum(len(batch.indices) for batch in self._batches)

    @abstractmethod
    def assemble(self, indices: Sequence[int], records: Sequence[Record], canvas: Canvas) -> AnyBatch:
        """Returns the batch of up to `batch_size` records with filler; several threads call this."""

    def batches(self) -> Iterator[AnyBatch]:
        """Yields every batch that has an image; raises DataError as soon as too many images have been skipped."""
        under_way: deque[Future[tuple[AnyBatch, list[str]]]] = deque()
        with ThreadPoolExecutor(NUM_READERS) as pool:
            for number in range(self._num_rounds):
                if self._before_batch is not None:
                    self._before_batch()
                if number < len(self._batches):
                    under_way.append(pool.submit(self._read, self._batches[number]))
                if len(under_way) > NUM_READERS:
                    yield from self._counted(*under_way.popleft().result())
            while under_way:
                yield from self._counted(*under_way.popleft().result())

    def _read(self, planned: PlannedBatch) -> tuple[AnyBatch, list[str]]:
        """Returns the batch without the images that cannot be decoded, and the reason for each of those."""
        indices, records, reasons = [], [], []
        for index in planned.indices:
            try:
                records.append(self.dataset[index])
                indices.append(index)
            except DataError as error:
                if not isinstance(error.__context__, ImageError):
                    raise  # the record itself is damaged, including its ground truth
                reasons.append(error.__context__.reason)
        return self.assemble(indices, records, planned.canvas), reasons

    def _counted(self, batch: AnyBatch, reasons: list[str]) -> Iterator[AnyBatch]:
        for reason in reasons:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
        self.check_skipped(self.skipped)
        if batch.indices:
            yield batch

    def check_skipped(self, skipped: Mapping[str, int]) -> None:
        """Raises DataError if too many images of the data set were skipped for a meaningful score."""
        check_budget(
            sum(skipped.values()),
            len(self.dataset),
            self._max_skip_fraction,
            name=self.dataset.name,
            details=f" ({', '.join(f'{number} x {reason}' for reason, number in skipped.items())})",
        )
