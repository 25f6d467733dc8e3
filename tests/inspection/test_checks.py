"""Checks that the planted set does not need: empty and unreadable splits, masks, classes, sizes, preparation."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import Config
from mrcnn_jax.data.dataset import EncodedRecord, ObjectRecord
from mrcnn_jax.errors import DataError, StorageError
from mrcnn_jax.inspection.charts import bin_values, integer_edges
from mrcnn_jax.inspection.data_report import write_report
from mrcnn_jax.inspection.image_facts import ImageFacts, measure_image
from mrcnn_jax.inspection.inspected_split import InspectedData, InspectedSplit, fit_sizes
from mrcnn_jax.inspection.object_facts import measure_objects
from mrcnn_jax.inspection.run_checks import run_checks, summarise
from tests.inspection.planted_set import CONFIG

HW = (96, 128)


def square(x: float, side: float = 20.0, **changes: Any) -> ObjectRecord:
    """An L of the side, or a square with `full`."""
    full = changes.pop("full", False)
    corner = [x + side, 20.0] if full else [x + side, 20.0, x + side, 20 + side / 2, x + side / 2, 20 + side / 2]
    polygon = (
        [x, 20.0, *corner, x + side, 20.0 + side, x, 20.0 + side]
        if full
        else [x, 20.0, *corner, x + side / 2, 20.0 + side, x, 20.0 + side]
    )
    fields = {"id": 1, "label": 1, "bbox": (x, 20.0, side, side), "is_crowd": False, "segmentation": [polygon]}
    fields["area"] = side * side * (1.0 if full else 0.75)
    return ObjectRecord(**(fields | changes))


def split_of(
    rows: list[list[ObjectRecord]],
    names: tuple[str, ...] = ("bolt",),
    name: str = "train",
    hw: Any = HW,
    **changes: Any,
) -> InspectedSplit:
    """A split of images of noise, without files."""
    images = []
    for index, objects in enumerate(rows):
        rng = np.random.default_rng([index, len(name), *name.encode()])
        thumbnail = rng.integers(-127, 128, (64, 64)).astype(np.int8)
        images.append(
            ImageFacts(
                index,
                f"{index}.png",
                hw,
                measure_objects(objects, hw),
                contrast=30.0,
                digest=rng.bytes(8),
                thumbnail=thumbnail,
            )
        )
    categories = tuple(Category(number, each) for number, each in enumerate(names, start=1))
    sizes = np.tile(np.array(hw, np.int64), (len(rows), 1))
    dataset = SimpleNamespace(sizes=sizes, categories=categories, depth="auto", path=changes.pop("path", None))
    is_training = name.startswith("train")
    split = InspectedSplit(
        name, dataset, tuple(images), is_training, *fit_sizes(sizes, CONFIG, is_training=is_training)
    )
    split.__dict__["preparation"] = changes.pop("preparation", {})
    return split


def found(*splits: InspectedSplit, config: Config = CONFIG) -> dict[str, tuple[str, str]]:
    """Severity and text by check; findings between splits of 20 images or fewer apart."""
    findings = run_checks(InspectedData(splits, config))
    return {
        each.check: (each.severity, each.text) for each in findings if each.check not in ("one-class", "split-size")
    }


GOOD = [[square(10), square(60)] for _ in range(12)]


def test_good_splits_have_no_findings() -> None:
    assert found(split_of(GOOD), split_of(GOOD, name="val")) == {}


def test_empty_splits() -> None:
    empty = split_of([], name="val")
    assert found(split_of(GOOD), empty) == {"empty-split": ("error", "val has no images.")}
    assert summarise(empty, InspectedData((empty,), CONFIG))["objects_per_image"] is None
    assert found(split_of([[], []])) == {"nothing-to-learn": ("error", "train has no objects.")}
    crowd = [square(5, is_crowd=True)]
    assert found(split_of([crowd]))["nothing-to-learn"] == ("error", "train has no objects but 1 crowds.")
    assert found(split_of([*GOOD, []]))["no-objects"][0] == "note"
    assert found(split_of([GOOD[0], [], []]))["no-objects"][0] == "warning"


def test_a_page_of_an_empty_split(tmp_path: Path) -> None:
    data = InspectedData((split_of([], (), name="val", path=tmp_path / "a" / "val"),), CONFIG)
    write_report(tmp_path, data, run_checks(data), "nothing", num_examples=3)
    assert "val has no images." in (tmp_path / "report.html").read_text()
    with pytest.raises(StorageError, match=r"report\.json could not be written"):
        (tmp_path / "file").write_text("")
        write_report(tmp_path / "file", data, [], "nothing", num_examples=3)


def test_masks() -> None:
    boxes = [[square(10, segmentation=None)], [square(60, segmentation=None)]]
    assert found(split_of(boxes))["no-mask"][0] == "error"
    both = found(split_of(GOOD), split_of(boxes * 6, name="val"))
    assert both["no-mask"][0] == both["split-masks"][0] == "warning"
    assert both["split-masks"][1] == "No object of val has a mask; train has masks."
    full = [[square(10, full=True), square(60, full=True)]] * 2
    assert found(split_of(full))["rectangle-mask"] == (
        "warning",
        "4 of 4 objects (100.0 %) of train have a mask that fills its box.",
    )
    assert "rectangle-mask" not in found(split_of([*GOOD, full[0]]))
    assert found(split_of([*GOOD, [square(10, area=30.0)]]))["area"][0] == "warning"


def test_boxes() -> None:
    beyond = [square(10, bbox=(-15.0, 20.0, 45.0, 20.0))]
    assert "box-outside" in found(split_of([*GOOD, beyond]))
    assert "tiny-box" in found(split_of([*GOOD, [square(10, side=0.5)]]))


def test_classes() -> None:
    rare = [[square(10, label=2)], *GOOD * 5]
    seen = found(split_of(rare, ("bolt", "nut", "gear")))
    assert seen["rare-class"] == ("warning", "1 classes of train have fewer than 10 objects: nut 1.")
    assert seen["imbalance"][1] == "train has 120 times as many objects of bolt (120) as of nut (1)."
    assert seen["unused-class"] == ("note", "1 of 3 classes have no object: gear.")
    assert found(split_of(GOOD, ("Bolt 1", "bolt-1s", "nut")))["alike-names"][1] == (
        "Names of train are almost equal: Bolt 1 / bolt-1s."
    )
    more = found(split_of(GOOD, ("bolt", "nut")), split_of(GOOD, ("BOLT",), name="val"))
    assert more["split-class-names"] == ("warning", "Only in train: nut.")


def test_sizes_and_preparation() -> None:
    square_images = found(split_of(GOOD, hw=(256, 128)))
    assert square_images["padding"][1].startswith("The images of train fill 38 % of their canvases")
    assert "long-image" in found(split_of(GOOD, hw=(24, 128)))
    large = [[square(10, side=50)] for _ in range(24)]
    assert found(split_of(GOOD), split_of(large, name="val"))["split-scale"][1] == (
        "The median object measures 20 pixels at the network's input in train, 50 in val."
    )
    notes = {
        "num_images": 100,
        "num_objects": 900,
        "images": {"image is missing": {"count": 5}},
        "objects": {"mask is empty": {"count": 2}},
        "repaired": {"area is text": {"count": 3}},
    }
    kept = run_checks(InspectedData((split_of(GOOD, preparation=notes),), CONFIG))
    left_out = [(each.severity, each.text) for each in kept if each.check == "left-out"]
    assert left_out == [
        ("warning", "5 of 100 images (5.0 %) of train were left out: 5 x image is missing."),
        ("note", "2 of 900 objects (0.2 %) of train were left out: 2 x mask is empty."),
    ]
    assert [each.text for each in kept if each.check == "repaired"] == ["3 repairs in train: 3 x area is text."]


def test_boxes_are_resized_as_their_image_is() -> None:
    split = split_of([[square(0, bbox=(0.0, 0.0, 1000.0, 31.0))]], hw=(31, 1000))
    np.testing.assert_array_equal(split.network_hw, [[4, 128]])  # 3.97 pixels are rounded
    np.testing.assert_allclose(split.network_boxes, [[0, 0, 128, 4]])


class BrokenDataset:
    sizes = np.array([[4, 5]])
    image_ids = np.array([3])
    depth = "auto"

    def __init__(self, data: bytes | None) -> None:
        self.data = data

    def read_encoded(self, index: int) -> EncodedRecord:
        if self.data is None:
            raise DataError("d: record 0 is damaged (ValueError); create it.")
        return EncodedRecord(3, "a.png", self.data, ())


@pytest.mark.parametrize(("data", "fault"), [(None, "record is damaged"), (b"GIF?", "image cannot be decoded")])
def test_records_that_cannot_be_read(data: bytes | None, fault: str) -> None:
    image = measure_image(BrokenDataset(data), 0)  # type: ignore[arg-type]
    assert (image.fault, image.image_id, len(image.objects)) == (fault, 3, 0)


def test_histograms_contain_all_values() -> None:
    histogram = bin_values([("train", np.array([0, 1, 5, 70])), ("val", np.zeros(0))], [0, 2, 4, 8])
    assert histogram.series[0].values == [50, 0, 50] and histogram.series[1].values == [0, 0, 0]
    assert integer_edges([np.array([3]), np.zeros(0)]) == [0, 1, 2, 3, 4] and integer_edges([]) == [0, 1]
    assert integer_edges([np.array([375])])[-1] >= 376 and len(integer_edges([np.array([375])])) <= 17
