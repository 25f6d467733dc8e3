"""Training batches: Grain's threads read and prepare the records of the plan, which are stacked for the device.

Batch s is a pure function of the data, the config, the seed and s. It depends neither on the step at which the stream
starts nor on the number of threads. Each process gets its own rows of the same global batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mrcnn_jax.categories import keypoint_names
from mrcnn_jax.config import DataConfig
from mrcnn_jax.data.copy_paste import paste_from
from mrcnn_jax.data.data_findings import check_budget
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.data.plan import Plan, augmentation_rng
from mrcnn_jax.data.repeats import repeat_factors, repeat_records
from mrcnn_jax.data.samples import Sample, make_invalid_sample, make_sample, stack_samples
from mrcnn_jax.data.transforms import find_keypoint_flip, fit_size
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.structures import Batch

_INT32_MAX = np.iinfo(np.int32).max


@dataclass(frozen=True)
class _Row:
    """One row of a batch: its sample and the ids stored with it."""

    sample: Sample
    image_id: int
    sample_index: int


class _Rows:
    """Grain source with random access to all rows of the stream: item i is row i % b of local batch i // b."""

    def __init__(
        self,
        dataset: Dataset,
        data_config: DataConfig,
        keypoint_flip: Sequence[int],
        plan: Plan,
        entries: np.ndarray,
        seed: int,
        steps: range,
        local_rows: range,
    ) -> None:
        self._dataset = dataset
        self._entries = entries  # the record of each entry that the plan orders
        self._config = data_config
        self._seed = seed
        self._steps = steps
        self._local_rows = local_rows
        self._planned_batch = lru_cache(maxsize=16)(lambda step: plan[step])  # requested once per row
        fits = bool((np.abs(dataset.image_ids) <= _INT32_MAX).all())
        self._image_ids = dataset.image_ids if fits else np.arange(len(dataset))
        try:
            names = keypoint_names(dataset.categories)
        except ValueError:
            names = ()  # categories with different keypoints; models with a keypoint head have been refused
        self._keypoint_flip = tuple(keypoint_flip) or find_keypoint_flip(names)
        if len(self._keypoint_flip) != len(names):
            raise ConfigError(f"model.keypoint_flip: expected {len(names)} indices, got {len(self._keypoint_flip)}.")

    def __len__(self) -> int:
        return len(self._steps) * len(self._local_rows)

    def __getitem__(self, index: int) -> _Row:
        step, row = divmod(index, len(self._local_rows))
        planned = self._planned_batch(self._steps[step])
        position = self._local_rows[row]
        canvas = self._config.canvases[planned.canvas]
        record, sample_index = int(self._entries[planned.records[position]]), int(planned.sample_index[position])
        try:
            rng = augmentation_rng(self._seed, sample_index)
            content = self._dataset[record]
            if self._config.copy_paste_probability > 0:
                content = paste_from(self._dataset, content, self._config.copy_paste_probability, rng)
            sample = make_sample(content, canvas, self._config, rng, self._keypoint_flip)
        except DataError:
            sample = make_invalid_sample(canvas, self._config, len(self._keypoint_flip))
        return _Row(sample, int(self._image_ids[record]), sample_index & _INT32_MAX)


def _stack(rows: list[_Row]) -> tuple[Batch, int]:
    """Returns the batch, and the number of objects for which it has no slots."""
    samples = [row.sample for row in rows]
    batch = stack_samples(
        samples,
        image_ids=np.array([row.image_id for row in rows], np.int32),
        sample_index=np.array([row.sample_index for row in rows], np.int32),
    )
    return batch, sum(sample.num_dropped for sample in samples)


class TrainingBatches(Iterator[Batch]):
    """An iterator over batches. It counts the objects left out of the batches that it has returned.

    Raises DataError when the share of the data set's images that could not be read exceeds `max_skip_fraction`.
    """

    def __init__(self, rows: _Rows, dataset: Dataset, data_config: DataConfig, batch_size: int) -> None:
        import grain

        self._dataset = dataset
        self._max_skip_fraction = data_config.max_skip_fraction
        self._unreadable: set[int] = set()

        self.dropped_objects = 0
        """Number of objects that were left out because their image has more than `max_objects`."""
        options = grain.ReadOptions(num_threads=data_config.num_threads, prefetch_buffer_size=data_config.prefetch)
        stream = grain.MapDataset.source(rows).batch(batch_size, batch_fn=_stack).to_iter_dataset(options)
        self._batches = iter(stream)

    def __next__(self) -> Batch:
        batch, num_dropped = next(self._batches)
        self.dropped_objects += num_dropped
        self._unreadable.update(batch.image_id[~batch.valid].tolist())
        check_budget(
            len(self._unreadable),
            len(self._dataset),
            self._max_skip_fraction,
            name=str(self._dataset.path),
            details=f" (image ids {sorted(self._unreadable)[:10]})",
        )
        return batch


def training_batches(
    dataset: Dataset,
    data_config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    num_steps: int,
    keypoint_flip: Sequence[int] = (),
    process_index: int = 0,
    process_count: int = 1,
) -> TrainingBatches:
    """Returns the batches of steps start_step .. num_steps - 1, with NumPy leaves.

    `batch_size` is global. This process gets its rows process_index * b .. (process_index + 1) * b, with b = batch_size
    / process_count. All images of a batch share a canvas, the one that fits each image at the largest short side.
    `keypoint_flip` is the model's; if it is empty, the flip is derived from the keypoints' names. With
    `repeat_threshold`, the plan orders a list in which some records occur more than once.
    """
    if batch_size % process_count != 0:
        raise ConfigError(f"The batch size {batch_size} is not divisible by {process_count} processes.")
    short_side = max(data_config.short_sides)
    sizes, inverse = np.unique(dataset.sizes, axis=0, return_inverse=True)
    canvases = [
        fit_size((height, width), short_side, data_config.max_side, data_config.canvases)[1] for height, width in sizes
    ]
    canvas_of_size = np.array([data_config.canvases.index(canvas) for canvas in canvases])
    entries = np.arange(len(dataset))
    if data_config.repeat_threshold > 0:
        entries = repeat_records(repeat_factors(dataset.labels(), data_config.repeat_threshold), seed)
    plan = Plan(canvas_of_size[inverse.ravel()][entries], batch_size=batch_size, seed=seed)
    local = batch_size // process_count
    local_rows = range(process_index * local, (process_index + 1) * local)
    rows = _Rows(dataset, data_config, keypoint_flip, plan, entries, seed, range(start_step, num_steps), local_rows)
    return TrainingBatches(rows, dataset, data_config, local)
