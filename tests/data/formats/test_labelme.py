"""LabelMe: shapes of every kind, groups, images beside the file or in it, and files that are damaged."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.data.bitmaps import decode_mask
from mrcnn_jax.data.formats.format_data import FormatOptions
from tests.data.formats import writers
from tests.data.formats.helpers import dump, findings, objects, photo, read

TRIANGLE = [[2, 2], [12, 2], [2, 12]]


def content(*shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    fields = {"shapes": list(shapes), "imagePath": "a.png", "imageData": None, "imageHeight": 40, "imageWidth": 60}
    return fields | changes


def shape(kind: str, points: Any, label: Any = "fig", **changes: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None} | changes


def test_every_kind_of_shape(tmp_path: Path) -> None:
    mask = np.zeros((5, 7), np.uint8)
    mask[1:4, 2:6] = 1
    coded = base64.b64encode(writers.png(mask)).decode()
    shapes = [
        shape("polygon", TRIANGLE),
        shape("rectangle", [[30, 20], [10, 10]]),
        shape("circle", [[30, 20], [33, 24]]),
        shape("mask", [[10, 20], [16, 24]], mask=coded),
        shape("rotation", [[20, 10], [30, 20], [20, 30], [10, 20]]),
    ]
    (source,) = read({"a.json": dump(content(*shapes)), "a.png": photo()}, tmp_path).sources.values()
    triangle, rectangle, circle, drawn, turned = objects(source)
    assert triangle["segmentation"] == [[2, 2, 12, 2, 2, 12]] and triangle["bbox"] == [2, 2, 10, 10]
    assert rectangle["bbox"] == [10, 10, 20, 10] and "segmentation" not in rectangle
    assert circle["area"] == pytest.approx(np.pi * 25, rel=0.05) and circle["bbox"] == [25, 15, 10, 10]
    expected = np.zeros((40, 60), np.uint8)
    expected[21:24, 12:16] = 1
    assert (decode_mask(drawn["segmentation"], (40, 60)) == expected).all() and drawn["area"] == 12
    assert turned["bbox"] == [10, 10, 20, 20] and "segmentation" not in turned


def test_rectangles_are_masks_if_wanted(tmp_path: Path) -> None:
    files = {"a.json": dump(content(shape("rectangle", [[30, 20], [10, 10]]))), "a.png": photo()}
    (source,) = read(files, tmp_path, options=FormatOptions(rectangles="masks")).sources.values()
    assert objects(source)[0]["segmentation"] == [[10, 10, 30, 10, 30, 20, 10, 20]]


def test_shapes_of_one_group_and_class_are_one_object(tmp_path: Path) -> None:
    other = [[30, 30], [38, 30], [30, 38]]
    shapes = [
        shape("polygon", TRIANGLE, group_id=4),
        shape("polygon", other, "date", group_id=4),
        shape("polygon", other, group_id=4),
        shape("polygon", TRIANGLE),
    ]
    (source,) = read({"a.json": dump(content(*shapes)), "a.png": photo()}, tmp_path).sources.values()
    found = objects(source)
    assert [(item["class"], len(item["segmentation"])) for item in found] == [("fig", 2), ("date", 1), ("fig", 1)]
    assert found[0]["bbox"] == [2, 2, 36, 36]
    assert any("same group and class" in line and "1 shapes" in line for line in findings(source, tmp_path))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    shapes = [
        shape("polygon", TRIANGLE),
        shape("linestrip", TRIANGLE),
        shape("cube", TRIANGLE),
        shape("polygon", TRIANGLE, " "),
        shape("circle", [[1, "x"], [2, 2]]),
        shape("polygon", TRIANGLE[:2]),
        "no shape",
    ]
    files = {
        "a.json": dump(content(*shapes)),
        "a.png": photo(),
        "b.json": b"{",
        "c.json": dump(content(imagePath="none.png")),
        "other.json": b"[]",
        "d.png": photo(),
    }
    (source,) = read(files, tmp_path).sources.values()
    lines = "\n".join(findings(source, tmp_path))
    for reason in (
        "1 x shape has no area (linestrip 2 of image 1 'a.png')",
        "1 x shape is of an unknown kind (cube 3",
        "2 x shape has no label (shape 4 of image 1 'a.png', shape 7",
        "1 x shape has no usable points (circle 5",
        "1 x segmentation has fewer than 3 points, and there is no bbox",
        "1 x file is not valid JSON ('b.json')",
        "1 x image is missing (image 2 'none.png')",
        "1 images have no annotation and are left out ('d.png')",
        "1 JSON files are not LabelMe's and are not read ('other.json')",
    ):
        assert reason in lines, reason
    assert len(objects(source)) == 1


def test_images_are_found_by_path_by_stem_or_inside(tmp_path: Path) -> None:
    inside = base64.b64encode(photo(seed=3)).decode()
    files = {
        "json/a.json": dump(content(imagePath="C:\\me\\photos\\a.png")),
        "photos/a.png": photo(seed=1),
        "b/b.json": dump(content(imagePath="renamed.png")),
        "b/b.png": photo(seed=2),
        "c/c.json": dump(content(imagePath="lost.png", imageData=inside, imageHeight=None)),
        "d/d.json": dump(content(shape("polygon", TRIANGLE), imagePath="lost.png", imageData="?", imageHeight=None)),
    }
    (source,) = read(files, tmp_path).sources.values()
    found = {source.load(index).file_name: source.load(index).data for index in range(3) if index != 2}
    assert found["b/b.png"] == photo(seed=2) and found["c/c.png"] == photo(seed=3)
    assert any("image cannot be opened (image 3 'd/d.png')" in line for line in findings(source, tmp_path))
    assert source.load(3).data == photo(seed=1)


def test_folders_are_splits_with_the_same_classes(tmp_path: Path) -> None:
    files = {
        "train/a.json": dump(content(shape("polygon", TRIANGLE, "fig"))),
        "train/a.png": photo(),
        "valid/a.json": dump(content(shape("polygon", TRIANGLE, "date"))),
        "valid/a.png": photo(seed=1),
    }
    sources = read(files, tmp_path).sources
    assert list(sources) == ["train", "val"]
    for source in sources.values():
        assert [category.name for category in source.categories] == ["date", "fig"]
    assert objects(sources["val"])[0]["class"] == "date" and sources["val"].load(0).data == photo(seed=1)
