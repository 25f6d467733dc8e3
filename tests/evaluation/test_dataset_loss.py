"""The mean loss of a data set, with a stand-in for the network: what reaches it, and how its losses are added."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import LossConfig, TestConfig
from mrcnn_jax.data.dataset import ObjectRecord, Record
from mrcnn_jax.data.images import ImageError
from mrcnn_jax.errors import DataError, NumericalError
from mrcnn_jax.evaluation import dataset_loss
from mrcnn_jax.evaluation.dataset_loss import LossInputs, compute_dataset_loss
from tests import tiny

TEST = TestConfig(short_side=64, max_side=96, canvases=((64, 96), (96, 64)))
# The model's labels 1 and 2 are the data's 2 and 1; it has another class, and the data has one that it lacks.
OF_MODEL = (Category(8, "green"), Category(3, "red"), Category(-1, "blue"))
INPUTS = LossInputs(tiny.MODEL, TEST, LossConfig(max_objects=3, mask_size=14), OF_MODEL)


class Objects:
    """Seven images of two shapes; image i has i objects of 10 x 20 pixels, the first of a class without a label."""

    name = "objects"
    categories = (Category(3, "red"), Category(8, "green"), Category(9, "grey"))

    def __init__(self, undecodable: tuple[int, ...] = ()) -> None:
        self.sizes = np.array([(120, 160), (160, 120)] * 4)[:7]
        self.image_ids = np.arange(7) * 10
        self.undecodable = undecodable

    def __len__(self) -> int:
        return 7

    def describe(self, index: int) -> str:
        return f"number {index}"

    def __getitem__(self, index: int) -> Record:
        try:
            if index in self.undecodable:
                raise ImageError("image is truncated")
        except ImageError as error:
            raise DataError(f"image {index}: {error.reason}") from None
        height, width = self.sizes[index]
        objects = tuple(
            ObjectRecord(k, 3 if k == 0 else 1 + k % 2, (10.0, 20.0, 10.0 + k, 20.0), 1.0 * k, k == 4, None)
            for k in range(index)
        )
        return Record(index * 10, f"{index}.png", np.full((height, width, 3), 10 * index, np.uint8), objects)


class Network:
    """The losses of each image: its grey value, a third of its index, and the labels of its objects as digits."""

    def __init__(self) -> None:
        self.shapes: set[tuple[int, ...]] = set()
        self.num_filler = 0

    def __call__(self, batch):
        self.shapes.add(batch.images.shape)
        self.num_filler += int((~batch.valid).sum())
        assert not batch.images[~batch.valid].any() and not batch.ground_truth.valid[~batch.valid].any()
        digits = 10 ** np.arange(3)[::-1]
        return {
            "grey": batch.images[:, 0, 0, 0].astype(np.float32),
            "third": (batch.sample_index / np.float32(3)).astype(np.float32),
            "labels": (batch.ground_truth.labels * digits).sum(axis=1).astype(np.float32),
            "total": batch.ground_truth.boxes[..., 2].sum(axis=1),
        }


def compute(num_devices: int = 1, dataset: Objects | None = None, network: Network | None = None, **options):
    return compute_dataset_loss(
        Objects() if dataset is None else dataset,
        network or Network(),
        INPUTS,
        num_devices=num_devices,
        **({"max_skip_fraction": 0.5} | options),
    )


def test_terms_are_means_over_all_images():
    network, calls = Network(), []
    found = compute(2, network=network, progress=lambda *call: calls.append(call))
    assert found.terms["grey"] == 30 and found.terms["third"] == pytest.approx(1)
    # Objects 1, 2, 3, ... have the data's labels 2, 1, 2, so the model's 1, 2, 1; number 4 is a crowd, and three fit.
    # Image 6 keeps the three largest: numbers 2, 3 and 5.
    labels = [0, 0, 100, 120, 121, 121, 211]
    assert found.terms["labels"] == np.mean(labels)
    widths = [sum(20.0 + k for k in kept) for kept in ([], [], [1], [1, 2], [1, 2, 3], [1, 2, 3], [2, 3, 5])]
    scales = np.array([85 / 160, 64 / 120] * 4)[:7]
    assert found.terms["total"] == pytest.approx(np.mean(widths * scales))
    assert found.left_out == {"objects of other classes": 6, "objects beyond the slots": 1}
    assert found.num_images == 7 and calls[-1] == (7, 7)
    assert network.shapes == {(2, 64, 96, 3), (2, 96, 64, 3)} and network.num_filler == 1
    assert "Validation loss" in found.describe() and "6 objects of other classes" in found.describe()


@pytest.mark.parametrize("num_devices", [2, 3, 8])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_the_sum_is_the_same_for_any_number_of_devices_and_processes(monkeypatch, num_devices, num_processes):
    whole = compute(1)
    sent: list[bytes] = []

    def gather(content: bytes) -> list[bytes]:
        sent.append(content)
        return sent  # the last process has all

    monkeypatch.setattr(dataset_loss, "gather_bytes", gather)
    for index in range(num_processes):
        monkeypatch.setattr(dataset_loss.jax, "process_index", lambda index=index: index)
        monkeypatch.setattr(dataset_loss.jax, "process_count", lambda: num_processes)
        monkeypatch.setattr(dataset_loss, "shared_errors", nullcontext)
        last = compute(num_devices)
    assert last == whole  # bit for bit


def test_images_that_cannot_be_decoded_are_counted_and_left_out():
    found = compute(2, Objects(undecodable=(0, 5)))
    assert found.skipped == {"image is truncated": 2} and found.num_images == 5
    assert found.terms["grey"] == np.mean([10, 20, 30, 40, 60])
    with pytest.raises(DataError, match=r"1 x image is truncated\), more than 10\.0%"):
        compute(2, Objects(undecodable=(0, 5)), max_skip_fraction=0.1)


def test_a_loss_that_is_not_finite_names_its_image():
    class Broken(Network):
        def __call__(self, batch):
            losses = super().__call__(batch)
            return losses | {"third": np.where(batch.sample_index == 4, np.nan, losses["third"])}

    with pytest.raises(NumericalError, match=r"third is nan on image number 4\."):
        compute(2, network=Broken())


def test_no_images_are_refused():
    empty = Objects()
    empty.__class__ = type("Empty", (Objects,), {"__len__": lambda self: 0})
    with pytest.raises(DataError, match="no images to compute a loss on"):
        compute(dataset=empty)


def test_images_are_those_of_the_test_settings():
    inputs = replace(INPUTS, test=replace(TEST, resize="float", short_side=32))
    seen = []

    def record(batch):
        seen.append((batch.images.dtype, batch.image_hw.tolist()))
        return Network()(batch)

    compute_dataset_loss(Objects(), record, inputs, num_devices=4)
    assert {dtype for dtype, _ in seen} == {np.dtype(np.float32)}
    sizes = [tuple(size) for _, sizes in seen for size in sizes if size[0]]
    assert Counter(sizes) == {(32, 43): 4, (43, 32): 3}
