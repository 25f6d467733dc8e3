"""The validation loss: the mean of every loss term over the images of a data set, without augmentation.

The network computes one image per device and call, and the host adds the losses of all images exactly. So the result
depends neither on a batch size nor on the order of the images, and on the number of devices and processes only where
the compiler rounds differently.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.config import Canvas, DataConfig, LossConfig, ModelConfig, TestConfig
from mrcnn_jax.data.dataset import Dataset, Record
from mrcnn_jax.data.samples import make_invalid_sample, make_plain_sample, stack_samples
from mrcnn_jax.distributed import gather_bytes, shared_errors
from mrcnn_jax.errors import DataError, NumericalError
from mrcnn_jax.evaluation.dataset_reader import DatasetReader
from mrcnn_jax.structures import Batch

LossFn = Callable[[Batch], Mapping[str, Any]]
"""Maps a batch of one image per device, with NumPy leaves, to each loss term of each image, float32 [B]."""


@dataclass(frozen=True)
class DatasetLoss:
    """The loss of a model on a data set."""

    terms: dict[str, float]
    """The mean of each loss term over the images, and their "total"."""
    num_images: int
    skipped: dict[str, int]
    """Images that could not be decoded, counted by reason."""
    left_out: dict[str, int]
    """Objects without effect on the loss, counted by reason. Crowds, which are never learned, are not counted."""

    def describe(self) -> str:
        """Returns the terms as one line, and what was left out."""
        total = self.terms["total"]
        terms = ", ".join(f"{name} {value:.4g}" for name, value in self.terms.items() if name != "total")
        lost = ", ".join(f"{number} {what}" for what, number in {**self.skipped, **self.left_out}.items())
        return f"Validation loss {total:.4g}: {terms}.{f' Left out: {lost}.' if lost else ''}"


@dataclass(frozen=True)
class LossInputs:
    """What the loss of an image depends on, besides image and parameters."""

    model: ModelConfig
    test: TestConfig
    loss: LossConfig
    categories: tuple[Category, ...]
    """Label k of the model is categories[k - 1], with the ids of the data set."""


@dataclass(frozen=True)
class _LossBatch:
    indices: tuple[int, ...]
    batch: Batch
    left_out: Counter[str]


@dataclass
class _PartLoss:
    """The losses of one process's images, by the index in the data set."""

    losses: dict[int, dict[str, float]]
    skipped: dict[str, int]
    left_out: dict[str, int]


def compute_dataset_loss(
    dataset: Dataset,
    loss_fn: LossFn,
    inputs: LossInputs,
    *,
    num_devices: int,
    max_skip_fraction: float = DataConfig.max_skip_fraction,
    progress: Callable[[int, int], None] | None = None,
    before_batch: Callable[[], None] | None = None,
) -> DatasetLoss:
    """Returns the mean losses over the images, in the sizes and on the canvases of the test settings.

    Processes that have joined compute their parts on their own `num_devices` devices each, and all return the same.

    Raises:
        DataError: there are no images, or more than `max_skip_fraction` of them cannot be decoded.
        NumericalError: the loss of an image is not finite.
    """
    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: no images to compute a loss on. Choose another split.")
    part = (jax.process_index(), jax.process_count())
    reader = _LossReader(dataset, inputs, num_devices, max_skip_fraction, part=part, before_batch=before_batch)
    with shared_errors():
        own = _compute_part(reader, loss_fn, progress)
    parts = [json.loads(content) for content in gather_bytes(json.dumps(asdict(own)).encode())]
    skipped, left_out = (dict(_add_counts(each[name] for each in parts)) for name in ("skipped", "left_out"))
    reader.check_skipped(skipped)
    losses = {int(index): terms for each in parts for index, terms in each["losses"].items()}
    names = sorted(next(iter(losses.values())))
    # The sum is exact, so that it does not depend on the order of the images.
    terms = {name: math.fsum(each[name] for each in losses.values()) / len(losses) for name in names}
    return DatasetLoss(terms, len(losses), skipped, left_out)


def _add_counts(counts: Iterator[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def _compute_part(
    reader: "_LossReader", loss_fn: LossFn, progress: Callable[[int, int], None] | None = None
) -> _PartLoss:
    part = _PartLoss({}, reader.skipped, Counter())
    pending: tuple[_LossBatch, Mapping[str, Any]] | None = None

    def fetch(batch: _LossBatch, computed: Mapping[str, Any]) -> None:
        losses = jax.device_get(dict(computed))
        for slot, index in enumerate(batch.indices):
            terms = {name: float(values[slot]) for name, values in losses.items()}
            if bad := [name for name, value in terms.items() if not math.isfinite(value)]:
                raise NumericalError(
                    f"Validation loss: {', '.join(f'{name} is {terms[name]:.4g}' for name in bad)} on image "
                    f"{reader.dataset.describe(index)}. Use the weights of an earlier step."
                )
            part.losses[index] = terms
        if progress is not None:
            progress(len(part.losses) + sum(part.skipped.values()), reader.num_images)

    for batch in reader.batches():
        started = (batch, loss_fn(batch.batch))  # the device computes while the host reads the results before
        part.left_out = dict(Counter(part.left_out) + batch.left_out)
        if pending is not None:
            fetch(*pending)
        pending = started
    if pending is not None:
        fetch(*pending)
    return part


class _LossReader(DatasetReader[_LossBatch]):
    """Reads images with their ground truth, one for each device."""

    def __init__(self, dataset: Dataset, inputs: LossInputs, batch_size: int, *args: Any, **options: Any) -> None:
        super().__init__(dataset, inputs.test, batch_size, *args, **options)
        self._inputs = inputs
        self._config = DataConfig(max_objects=inputs.loss.max_objects, mask_size=inputs.loss.mask_size)

    @cached_property
    def _model_labels(self) -> dict[int, int]:
        """The model's label for each label of the data set that it has."""
        labels = {category.id: label for label, category in enumerate(self._inputs.categories, start=1)}
        own = enumerate(self.dataset.categories, start=1)
        return {label: labels[category.id] for label, category in own if category.id in labels}

    def assemble(self, indices: Sequence[int], records: Sequence[Record], canvas: Canvas) -> _LossBatch:
        num_keypoints = self._inputs.model.num_keypoints
        left_out: Counter[str] = Counter()
        samples = []
        for record in records:
            objects = tuple(
                replace(item, label=self._model_labels[item.label])
                for item in record.objects
                if item.label in self._model_labels
            )
            known = sum(not item.is_crowd for item in objects)
            left_out["objects of other classes"] += sum(not item.is_crowd for item in record.objects) - known
            sample = make_plain_sample(replace(record, objects=objects), canvas, self.test, self._config, num_keypoints)
            left_out["objects beyond the slots"] += sample.num_dropped
            samples.append(sample)
        filler = make_invalid_sample(canvas, self._config, num_keypoints)
        if self.test.resize == "float":
            filler = replace(filler, image=filler.image.astype(np.float32))
        num_filler = self.batch_size - len(samples)
        numbers = np.array([*indices, *[0] * num_filler], np.int32)
        batch = stack_samples([*samples, *[filler] * num_filler], image_ids=numbers, sample_index=numbers)
        return _LossBatch(tuple(indices), batch, left_out)
