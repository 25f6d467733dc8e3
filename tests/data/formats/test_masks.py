"""Folders of masks: which image a mask belongs to, values of every depth, and masks that do not fit."""

from pathlib import Path

import numpy as np
import pytest

from mrcnn_jax.data.formats.format_data import FormatOptions
from mrcnn_jax.errors import DataError
from tests.data.formats import writers
from tests.data.formats.helpers import findings, objects, photo, read

NUMBERS = np.zeros((40, 60), np.int32)
NUMBERS[5:15, 5:15], NUMBERS[20:30, 20:40] = 3, 700


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a.png", "masks/a.png"),
        ("train/images/a.jpg.png", "train/labels/a.jpg.png"),
        ("img/a.png", "gt/a_instances.png"),
        ("a.png", "a_masks.tif"),
        ("a_img/x.png", "masks/x_mask.png"),
    ],
)
def test_a_mask_has_the_name_of_its_image(image: str, mask: str, tmp_path: Path) -> None:
    (source,) = read({image: photo(), mask: writers.png(NUMBERS)}, tmp_path).sources.values()
    assert [item["area"] for item in objects(source)] == [100, 200] and source.load(0).data == photo()


def test_colours_are_objects(tmp_path: Path) -> None:
    colours = np.stack([NUMBERS > 0, NUMBERS > 5, NUMBERS * 0], -1).astype(np.uint8) * 200
    files = {"images/a.png": photo(), "masks/a.png": writers.png_of_colours(colours)}
    (source,) = read(files, tmp_path, options=FormatOptions(class_name="cell")).sources.values()
    assert [(item["class"], item["area"]) for item in objects(source)] == [("cell", 100), ("cell", 200)]


def test_images_of_the_same_name_are_of_the_same_split(tmp_path: Path) -> None:
    files = {}
    for seed, split in enumerate(("train", "val")):
        files |= {f"{split}/images/a.png": photo(seed=seed), f"{split}/masks/a.png": writers.png(NUMBERS)}
        files |= {f"{split}/images/b.png": photo(seed=seed + 5), f"{split}/masks/b.png": writers.png(NUMBERS)}
    sources = read(files, tmp_path).sources
    assert [sources[split].load(0).data for split in ("train", "val")] == [photo(seed=0), photo(seed=1)]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    mask = writers.png(NUMBERS)
    files = {f"images/{name}.png": photo(seed=i) for i, name in enumerate("abcd")}
    files |= {"masks/a.png": mask, "masks/b.png": b"x", "masks/none.png": mask}
    files["masks/c.png"] = writers.png(NUMBERS[:20])
    (source,) = read(files, tmp_path).sources.values()
    lines = "\n".join(findings(source, tmp_path))
    for reason in (
        "1 x mask cannot be decoded ('masks/b.png')",
        "1 x mask has no image ('masks/none.png')",
        "1 x size differs from the annotation file (image 2 'c.png')",
        "1 images have no annotation and are left out ('images/d.png')",
    ):
        assert reason in lines, reason


def test_masks_of_the_foreground_are_warned_of(tmp_path: Path) -> None:
    files = {}
    for name in "ab":
        files |= {f"images/{name}.png": photo(), f"masks/{name}.png": writers.png((NUMBERS > 0) * 255)}
    (source,) = read(files, tmp_path).sources.values()
    assert any("every mask has one value" in note for note in source.findings.notes)
    assert len(objects(source)) == 1


def test_files_of_objects(tmp_path: Path) -> None:
    files = {
        "x/images/x.png": photo(),
        "x/masks/1.png": writers.png((NUMBERS == 3) * 255),
        "x/masks/2.png": writers.png(NUMBERS[:20] > 0),
        "x/masks/3.png": b"damaged",
        "y/images/y.png": photo(seed=1),
        "y/masks/1.png": writers.png(NUMBERS * 0),
        "z/images/z.png": photo(seed=2),
    }
    (source,) = read(files, tmp_path).sources.values()
    assert [item["area"] for item in objects(source)] == [100]
    lines = "\n".join(findings(source, tmp_path))
    for reason in (
        "1 x size of the mask differs from the others of its image ('2' of image 1 'x/images/x.png')",
        "1 x mask cannot be decoded ('3' of image 1",
        "1 x mask is empty (annotation 2 of image 2)",
        "1 images have no annotation and are left out ('z/images/z.png')",
    ):
        assert reason in lines, reason


def test_photographs_are_no_masks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is of no known format"):
        read({"a/x.png": photo(), "b/x.png": photo()}, tmp_path)
