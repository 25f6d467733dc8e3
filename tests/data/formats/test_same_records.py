"""The same images and objects in every format, in a folder and in a zip file, give the same records."""

import json
from pathlib import Path
from typing import Any

import pytest

from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.formats.reader import format_sources
from mrcnn_jax.data.prepare import prepare
from tests.data.formats import writers
from tests.data.formats.mask_writers import MASK_FORMATS
from tests.data.formats.writers import POLYGON_FORMATS, Photo, make_photos


def records(folder: Path, split: str = "train") -> list[Any]:
    """Everything that a split contains: categories, names, encoded images, objects, void pixels."""
    data = open_dataset(f"{folder}:{split}")
    images = [data._read(index)["image"] for index in range(len(data))]
    return [data.coco_dict(), images]


def reference(photos: list[Photo], root: Path, segment: writers.Segment, label: str) -> list[Any]:
    writers.save(writers.with_images(photos, "images/"), root)
    (root / "mine.json").write_text(json.dumps(writers.coco_content(photos, segment, label)))
    prepare(coco_source(root / "images", root / "mine.json"), root / "prepared", "train")
    return records(root / "prepared")


def check_format(path: Path, expected: str, to: Path) -> list[str]:
    """Prepares a data set whose format is recognised; returns what was found."""
    found = format_sources(path)
    assert found.format == expected
    assert list(found.sources) == ["train"]
    prepared = prepare(found.sources["train"], to, "train")
    assert prepared.num_images
    return [line for line in prepared.findings if line.startswith(("Repaired", "Left out", "Warning"))]


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    return make_photos()


@pytest.fixture(scope="module")
def of_polygons(photos: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return reference(photos, tmp_path_factory.mktemp("polygons"), writers.as_polygon, "")


@pytest.mark.parametrize("suffix", ["", ".zip"])
@pytest.mark.parametrize("name", POLYGON_FORMATS)
def test_polygons_are_bit_identical(
    name: str, suffix: str, photos: list[Photo], of_polygons: list[Any], tmp_path: Path
) -> None:
    write, expected = POLYGON_FORMATS[name]
    path = writers.save(write(photos), tmp_path / f"data{suffix}")
    lines = check_format(path, expected, tmp_path / "to")
    assert records(tmp_path / "to") == of_polygons
    if expected != "coco":
        assert lines == []


@pytest.mark.parametrize("suffix", ["", ".zip"])
@pytest.mark.parametrize("name", MASK_FORMATS)
def test_masks_are_those_that_coco_draws(name: str, suffix: str, photos: list[Photo], tmp_path: Path) -> None:
    """Pixels are those that COCO's tools give a polygon; in pictures of numbers, later objects hide others."""
    write, expected, segment, label = MASK_FORMATS[name]
    wanted = reference(photos, tmp_path / "reference", segment, label)
    path = writers.save(write(photos), tmp_path / f"data{suffix}")
    assert check_format(path, expected, tmp_path / "to") == []
    found = records(tmp_path / "to")
    if name == "bowl":  # each image has a folder of its own
        for image in found[0]["images"]:
            image["file_name"] = image["file_name"].rpartition("/")[2]
    assert found == wanted
