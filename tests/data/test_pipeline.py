"""The stream: batch s depends on the seed and s alone, processes share one global batch, losses are counted."""

from typing import Any

import jax
import numpy as np
import pytest

from mrcnn_jax.config import DataConfig
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.data.pipeline import TrainingBatches, training_batches
from mrcnn_jax.errors import ConfigError, DataError

CONFIG = DataConfig(
    canvases=((32, 64), (64, 32)), short_sides=(24, 32), max_side=64, max_objects=2, mask_size=8, num_threads=2
)


@pytest.fixture
def dataset(empty_coco: Any) -> Dataset:
    """Nine images, six landscape and three portrait, with up to three objects."""
    for index in range(9):
        image_hw = (24, 32) if index % 3 else (32, 24)
        empty_coco.add_image(100 + index, image_hw)
        for position in range(index % 4):
            box = [position, 2 * position, 8, 9]
            x, y, width, height = box
            outline = [[x, y, x + width, y, x + width, y + height]]
            empty_coco.add_object(
                4 * index + position + 1, 100 + index, bbox=box, area=72 + position, segmentation=outline
            )
    return empty_coco.prepare()


def stream(dataset: Dataset, **changes: Any) -> TrainingBatches:
    options: dict[str, Any] = {"data_config": CONFIG, "batch_size": 4, "seed": 5, "start_step": 0, "num_steps": 8}
    return training_batches(dataset, **(options | changes))


def assert_equal(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_shapes_and_types(dataset: Dataset) -> None:
    batches = list(stream(dataset))
    assert len(batches) == 8
    assert {batch.images.shape for batch in batches} == {(4, 32, 64, 3), (4, 64, 32, 3)}
    for batch in batches:
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))
        assert batch.ground_truth.masks.shape == (4, 2, 8, 8) and batch.ground_truth.boxes.shape == (4, 2, 4)
        assert (batch.images.dtype, batch.image_hw.dtype, batch.valid.dtype) == (np.uint8, np.int32, np.bool_)
        assert (batch.image_id.dtype, batch.sample_index.dtype) == (np.int32, np.int32)
        assert batch.valid.all() and (batch.image_hw.min(axis=1) >= 24).all()
        landscape = batch.images.shape[1] == 32
        assert ((batch.image_hw[:, 0] <= batch.image_hw[:, 1]) == landscape).all()
        np.testing.assert_array_equal(batch.image_id, 100 + batch.sample_index % 9)


def test_an_epoch_shows_every_image_once(dataset: Dataset) -> None:
    one_canvas = DataConfig(**(vars(CONFIG) | {"canvases": ((64, 64),)}))
    ids = np.concatenate(
        [batch.image_id for batch in stream(dataset, data_config=one_canvas, batch_size=3, num_steps=6)]
    )
    assert sorted(ids[:9]) == sorted(ids[9:]) == list(range(100, 109)) and ids[:9].tolist() != ids[9:].tolist()


def test_the_start_is_a_slice_of_the_stream(dataset: Dataset) -> None:
    batches = list(stream(dataset))
    for start in (3, 7, 8):
        later = list(stream(dataset, start_step=start))
        assert len(later) == 8 - start
        for left, right in zip(batches[start:], later, strict=True):
            assert_equal(left, right)


def test_threads_do_not_matter(dataset: Dataset) -> None:
    runs = [list(stream(dataset, data_config=DataConfig(**(vars(CONFIG) | {"num_threads": n})))) for n in (0, 1, 8)]
    for batches in zip(*runs, strict=True):
        assert_equal(batches[0], batches[1])
        assert_equal(batches[0], batches[2])


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_global_batch(dataset: Dataset, process_count: int) -> None:
    parts = [list(stream(dataset, process_index=i, process_count=process_count)) for i in range(process_count)]
    for step, batch in enumerate(stream(dataset)):
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[part[step] for part in parts])
        assert_equal(batch, joined)


def test_seeds_change_order_and_augmentation(dataset: Dataset) -> None:
    first, other = list(stream(dataset)), list(stream(dataset, seed=6))
    assert [batch.image_id.tolist() for batch in first] != [batch.image_id.tolist() for batch in other]
    sizes = {batch.image_hw.tobytes() for batch in first}
    assert len(sizes) > 2  # both short sides, in different rows


def test_a_image_is_augmented_anew_in_every_epoch(empty_coco: Any) -> None:
    empty_coco.add_image(1, (24, 32))
    batches = list(stream(empty_coco.prepare(), batch_size=8, num_steps=2))
    outcomes = {image.tobytes() for batch in batches for image in batch.images}
    assert len(outcomes) == 4  # two short sides, flipped and not


def test_dropped_objects_are_counted(dataset: Dataset) -> None:
    one_canvas = DataConfig(**(vars(CONFIG) | {"canvases": ((64, 64),)}))
    batches = stream(dataset, data_config=one_canvas, batch_size=9, num_steps=2)
    next(batches)
    assert batches.dropped_objects == 2  # two images have three objects for two slots
    next(batches)
    assert batches.dropped_objects == 4


def test_unreadable_images_become_invalid_images(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_for_104(self: Dataset, index: int) -> Any:
        if self.image_ids[index] == 104:
            raise DataError("record is damaged")
        return read(self, index)

    read = Dataset.__getitem__
    monkeypatch.setattr(Dataset, "__getitem__", fail_for_104)
    tolerant = DataConfig(**(vars(CONFIG) | {"canvases": ((64, 64),), "max_skip_fraction": 0.2}))
    batches = stream(dataset, data_config=tolerant, batch_size=9, num_steps=2)
    num_batches = 0
    for num_batches, batch in enumerate(batches, start=1):  # noqa: B007
        (row,) = np.flatnonzero(~batch.valid)
        assert batch.image_id[row] == 104 and batch.images[row].max() == 0 and batch.image_hw[row].tolist() == [0, 0]
        assert not batch.ground_truth.valid[row].any()
    assert num_batches == 2
    strict = DataConfig(**(vars(tolerant) | {"max_skip_fraction": 0.01}))
    with pytest.raises(DataError, match=r"1 of 9 images cannot be read.*\[104\]"):
        list(stream(dataset, data_config=strict, batch_size=9))


def test_large_image_ids_are_replaced_by_positions(empty_coco: Any) -> None:
    for image_id in (2**40, 3):
        empty_coco.add_image(image_id, (24, 32))
    (batch,) = stream(empty_coco.prepare(), batch_size=2, num_steps=1)
    assert sorted(batch.image_id) == [0, 1]


def test_batch_size_must_divide(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="batch size 4 is not divisible by 3"):
        stream(dataset, process_count=3)
