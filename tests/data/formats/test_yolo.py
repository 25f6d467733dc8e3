"""YOLO: settings in all forms, boxes, polygons and keypoints, and lines that cannot be read."""

from pathlib import Path

import pytest

from mrcnn_jax.errors import DataError
from tests.data.formats.helpers import findings, objects, photo, read

POLYGON = "0 0.1 0.1 0.5 0.1 0.1 0.5"
DATA = {"images/train/a.png": photo(), "labels/train/a.txt": POLYGON.encode()}


def test_boxes_and_polygons_are_in_pixels(tmp_path: Path) -> None:
    files = DATA | {"labels/train/a.txt": f"1 0.5 0.5 0.25 0.5\n\n{POLYGON}\n".encode(), "data.yaml": b"names: [a, b]"}
    (source,) = read(files, tmp_path).sources.values()
    box, polygon = objects(source)
    assert box["class"] == "b" and box["bbox"] == [22.5, 10, 15, 20] and "segmentation" not in box
    assert polygon["segmentation"] == [[6, 4, 30, 4, 6, 20]]


def test_keypoints_with_and_without_visibility(tmp_path: Path) -> None:
    box = "0 0.5 0.5 0.5 0.5"
    for dim, points, expected in (
        (3, "0.5 0.5 2 0.25 0.5 1 0 0 0", [30, 20, 2, 15, 20, 1, 0, 0, 0]),
        (2, "0.5 0.5 0.25 0.5 0 0", [30, 20, 2, 15, 20, 2, 0, 0, 0]),
    ):
        yaml = f"names: {{0: person}}\nkpt_shape: [3, {dim}]\nflip_idx: [0, 2, 1]\n".encode()
        root = tmp_path / str(dim)
        root.mkdir()
        text = f"{box} {points}\n{box}\n{box} 0.5\n".encode()
        (source,) = read(DATA | {"data.yaml": yaml, "labels/train/a.txt": text}, root).sources.values()
        assert source.categories[0].keypoints == ("keypoint_1", "left_keypoint_2", "right_keypoint_2")
        first, second = objects(source)
        assert first["keypoints"] == expected and first["bbox"] == [15, 10, 30, 20] and "keypoints" not in second
        assert any("number of keypoints differs from kpt_shape (line 3" in line for line in findings(source, root))


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("train: images/train\nval: images/val", {"train": "a", "val": "b"}),
        ("path: /home/me/datasets\ntrain: [images/train]\ntest: ../images/val", {"train": "a", "test": "b"}),
        ("path: ..\ntrain: /data/set/images/train\nval: lists/val.txt", {"train": "a", "val": "b"}),
        ("nc: 2", {"train": "a", "val": "b"}),
    ],
)
def test_splits_of_data_yaml_are_found_on_any_machine(yaml: str, expected: dict[str, str], tmp_path: Path) -> None:
    files = {
        "set/data.yaml": f"{yaml}\nnames:\n  0: x\n".encode(),
        "set/images/train/a.png": photo(),
        "set/images/val/b.png": photo(seed=1),
        "set/labels/train/a.txt": POLYGON.encode(),
        "set/labels/val/b.txt": POLYGON.encode(),
        "set/lists/val.txt": b"/home/me/set/images/val/b.png\n",
    }
    sources = read(files, tmp_path, "yolo").sources
    assert {split: source.load(0).file_name[0] for split, source in sources.items()} == expected
    assert all(source.num_images == 1 for source in sources.values())


def test_names_come_from_a_list_or_are_numbers(tmp_path: Path) -> None:
    found = {}
    for name, extra in (("list", {"classes.txt": b"fig\nnut\n"}), ("none", {})):
        (tmp_path / name).mkdir()
        (source,) = read(DATA | extra, tmp_path / name).sources.values()
        found[name] = [category.name for category in source.categories]
    assert found == {"list": ["fig", "nut"], "none": ["class 0"]}


def test_huge_class_numbers_do_not_fill_the_memory(tmp_path: Path) -> None:
    text = f"{POLYGON}\n99999999999 0.5 0.5 0.1 0.1".encode()
    (source,) = read(DATA | {"labels/train/a.txt": text}, tmp_path).sources.values()
    assert len(source.categories) == 1


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    lines = [POLYGON, "0 0.1", "x 0 0 1 1", "7 0.5 0.5 0.1 0.1", "0 120 80 40 40", f"{POLYGON} 0.9", "0.5 0 0 1 1"]
    files = {
        "data.yaml": b"names: [fig]\ntrain: images\nval: images/none\n",
        "images/a.png": photo(),
        "labels/a.txt": "\n".join(lines).encode(),
        "images/b.png": photo(),
        "labels/c.txt": POLYGON.encode(),
        "plots/results.png": photo(),
    }
    (source,) = read(files, tmp_path).sources.values()
    assert len(objects(source)) == 1 and objects(source, 1) == []
    lines = "\n".join(findings(source, tmp_path))
    for reason in (
        "2 x line is not a class and at least four numbers (line 2 of image 1 'a.png', line 3",
        "2 x class of the line is not in the list of names (line 4 of image 1 'a.png', line 7",
        "1 x numbers are not shares of the image (line 5",
        "1 x polygon of the line has an odd number of coordinates or fewer than 3 points (line 6",
        "1 x label file has no image ('labels/c.txt')",
        "1 images have no label file and are taken as images without objects ('images/b.png')",
        "1 images are in no split of data.yaml and are left out ('plots/results.png')",
        "data.yaml: val names 'images/none', which is not in the data set.",
    ):
        assert reason in lines, reason


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: 3", "names is not a list"),
        ("names: {a: b}", "names is not a list"),
        ("names: [a, a]", "names 'a' twice"),
        ("names: [a]\nkpt_shape: 17", "kpt_shape is not"),
    ],
)
def test_settings_that_cannot_be_read_are_named(yaml: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(DATA | {"data.yaml": yaml.encode()}, tmp_path)


def test_images_without_any_label_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no label file for any of 1 images"):
        read({"images/a.png": photo(), "data.yaml": b"names: [a]"}, tmp_path, "yolo")
