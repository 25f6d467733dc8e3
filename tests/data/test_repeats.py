"""Repeat-factor sampling, and the stream with everything that changes images switched on."""

from typing import Any

import jax
import numpy as np
import pytest

from mrcnn_jax.config import DataConfig
from mrcnn_jax.data import pipeline
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.data.pipeline import training_batches
from mrcnn_jax.data.repeats import repeat_factors, repeat_records
from mrcnn_jax.errors import DataError

CONFIG = DataConfig(canvases=((32, 64),), short_sides=(24, 32), max_side=64, max_objects=4, mask_size=8, num_threads=2)
ALL = {"scale_jitter": (0.5, 2.0), "copy_paste_probability": 0.7, "repeat_threshold": 0.5}


@pytest.fixture
def dataset(empty_coco: Any) -> Dataset:
    """Eight images: seven show category 7, one category 90 as well; a crowd of 90 in another counts for nothing."""
    for index in range(8):
        empty_coco.add_image(100 + index, (24, 32))
        empty_coco.add_object(index + 1, 100 + index, **({"category_id": 90} if index == 3 else {}))
    empty_coco.add_object(9, 103)
    empty_coco.content["annotations"] = [item for item in empty_coco.content["annotations"] if item["id"] != 6]
    crowd = {"size": [24, 32], "counts": [0, 768]}
    empty_coco.add_object(10, 101, category_id=90, iscrowd=1, segmentation=crowd)
    return empty_coco.prepare()


def stream(dataset: Dataset, changes: dict[str, Any], **options: Any) -> list[Any]:
    config = DataConfig(**(vars(CONFIG) | changes))
    return list(
        training_batches(dataset, config, **({"batch_size": 4, "seed": 5, "start_step": 0, "num_steps": 12} | options))
    )


def test_factors_golden() -> None:
    # Category 1 in all of four images, 2 in one of them (twice there), 4 in two; none in the last.
    labels = [np.array(row, np.int64) for row in ([1, 2, 2], [1], [1, 4], [1, 4], [])]
    expected = [np.sqrt(0.9 / 0.2), np.sqrt(0.9 / 0.8), np.sqrt(0.9 / 0.4), np.sqrt(0.9 / 0.4), 1]
    np.testing.assert_allclose(repeat_factors(labels, 0.9), expected)
    np.testing.assert_allclose(repeat_factors(labels, 0.1), np.ones(5))
    np.testing.assert_allclose(repeat_factors([np.zeros(0, np.int64)] * 2, 0.5), np.ones(2))


def test_repeats_are_right_on_average_and_follow_the_seed() -> None:
    factors = np.repeat([1.0, 1.25, 2.0, 3.5], 400)
    records = repeat_records(factors, seed=3)
    counts = np.bincount(records).reshape(4, 400)
    assert set(counts[0]) == {1} and set(counts[1]) == {1, 2} and set(counts[2]) == {2} and set(counts[3]) == {3, 4}
    np.testing.assert_allclose(counts.mean(axis=1), [1, 1.25, 2, 3.5], atol=0.08)  # 3 standard deviations
    np.testing.assert_array_equal(repeat_records(factors, seed=3), records)
    assert repeat_records(factors, seed=4).tolist() != records.tolist()


def test_labels_of_the_data_set(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row.tolist() for row in dataset.labels()] == [[1], [1], [1], [2, 1], [1], [], [1], [1]]

    def fail_for_3(self: Dataset, index: int) -> Any:
        if index == 3:
            raise DataError("record is damaged")
        return read(self, index)

    read = Dataset._read
    monkeypatch.setattr(Dataset, "_read", fail_for_3)
    assert dataset.labels()[3].tolist() == []


def test_rare_images_come_up_more_often(dataset: Dataset) -> None:
    # The rare category's factor is sqrt(0.5 / (1 / 8)) = 2: nine entries in an epoch.
    changes = {"repeat_threshold": 0.5, "scale_jitter": (0.4, 1.0)}
    batches = stream(dataset, changes, batch_size=9, num_steps=4)
    for epoch, batch in enumerate(batches):
        assert sorted(batch.image_id) == [100, 101, 102, 103, 103, 104, 105, 106, 107]
        assert sorted(batch.sample_index) == list(range(9 * epoch, 9 * epoch + 9))
    repeats = [batch.images[batch.image_id == 103] for batch in batches]
    assert all((first != second).any() for first, second in repeats)  # random numbers of their own


def test_options_that_are_off_change_nothing(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = stream(dataset, {})

    def refuse(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(pipeline, "paste_from", refuse)
    monkeypatch.setattr(Dataset, "labels", refuse)
    assert_equal(plain, stream(dataset, {"scale_jitter": (1.0, 1.0)}))


@pytest.mark.parametrize("name", sorted(ALL))
def test_each_option_changes_the_stream(dataset: Dataset, name: str) -> None:
    plain, changed = stream(dataset, {}), stream(dataset, {name: ALL[name]})
    assert any((left.images != right.images).any() for left, right in zip(plain, changed, strict=True))


def test_batches_depend_on_seed_and_step_alone(dataset: Dataset) -> None:
    batches = stream(dataset, ALL)
    assert_equal(batches, stream(dataset, ALL | {"num_threads": 8}))
    assert_equal(batches[5:], stream(dataset, ALL, start_step=5))
    parts = [stream(dataset, ALL, process_index=index, process_count=2) for index in range(2)]
    assert_equal(
        batches, [jax.tree.map(lambda *rows: np.concatenate(rows), *pair) for pair in zip(*parts, strict=True)]
    )
    assert any((a.images != b.images).any() for a, b in zip(batches, stream(dataset, ALL, seed=6), strict=True))
    for batch in batches:
        truth, limit = batch.ground_truth, batch.image_hw[:, None, ::-1]
        inside = (truth.boxes >= -1e-3).all() and (truth.boxes[..., 2:] <= limit + 1e-3).all()  # float32
        assert inside and truth.masks.any(axis=(2, 3))[truth.valid].all()


def assert_equal(left: list[Any], right: list[Any]) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_threshold_is_checked() -> None:
    with pytest.raises(ValueError, match=r"data\.repeat_threshold"):
        DataConfig(repeat_threshold=-0.1)
