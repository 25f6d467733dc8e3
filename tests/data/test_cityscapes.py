"""Cityscapes' folders: both forms of labels give the official instances, and bad input is one clear line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official_labels

from mrcnn_jax.data.bitmaps import decode_mask
from mrcnn_jax.data.cityscapes import CATEGORIES, cityscapes_source, find_splits
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.images import ImageError
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.errors import DataError
from tests.data.cityscapes_folder import EXPECTED, IMAGE_HW, NAMES, SCENE, Folder, box

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "cityscapes")


def random_objects(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Objects of every label and its group form, with corners outside the image, fractions and crossing edges."""
    names = [label.name for label in official_labels]
    names += [f"{name}group" for name in names if name != "pole"] + ["car", "person"] * 10
    objects = []
    for name in rng.permutation(names):
        centre, radius = rng.uniform(0, IMAGE_HW[::-1]), rng.uniform(2, 20)
        points = centre + rng.uniform(-radius, radius, (rng.integers(3, 9), 2))
        points = points if rng.random() < 0.1 else points.round()
        objects.append({"label": str(name), "polygon": points.tolist(), "deleted": int(rng.random() < 0.1)})
        if rng.random() < 0.8:  # JSON's integers
            objects[-1]["polygon"] = [[int(x), int(y)] for x, y in points.tolist()]
    return objects


def load_all(folder: Folder, split: str = "train") -> list[Any]:
    source = cityscapes_source(folder.root, split)
    return [source.load(index) for index in range(source.num_images)]


def test_labels_are_the_official_ones() -> None:
    evaluated = [(label.id, label.name) for label in official_labels if label.hasInstances and not label.ignoreInEval]
    assert [(category.id, category.name) for category in CATEGORIES] == evaluated


def test_void_is_what_the_official_evaluation_does_not_count(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add(NAMES[0], [*SCENE, box("caravan", 50, 70, 8, 15), box("parking", 55, 0, 5, 20)], form="ids")
    ids = cv2.imread(str(folder.path("gtFine", NAMES[0], "_gtFine_instanceIds.png")), cv2.IMREAD_UNCHANGED)
    prepare(cityscapes_source(folder.root, "train"), tmp_path / "prepared", "train")
    (image,) = open_dataset(f"{tmp_path / 'prepared'}:train").coco_dict()["images"]
    expected = np.isin(ids, [label.id for label in official_labels if label.ignoreInEval])
    assert expected.any() and (ids == 29000).any()
    np.testing.assert_array_equal(decode_mask(image["void"], IMAGE_HW), expected)


def test_polygons_give_the_official_instances(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn, given = Folder(tmp_path / "drawn"), Folder(tmp_path / "given")
    for number in range(12):
        objects = random_objects(rng)
        drawn.add(f"ulm/ulm_{number:06d}_000019", objects)
        given.add(f"ulm/ulm_{number:06d}_000019", objects, form="ids")
    assert not list(drawn.root.rglob("*instanceIds*")) and not list(given.root.rglob("*.json"))
    images = load_all(drawn)
    assert images == load_all(given)
    annotations = [annotation for image in images for annotation in image.annotations]
    assert len({annotation["id"] for annotation in annotations}) == len(annotations)
    assert {(annotation["category_id"], annotation["iscrowd"]) for annotation in annotations} == {
        (category.id, is_crowd) for category in CATEGORIES for is_crowd in (0, 1)
    }


@pytest.mark.parametrize("form", ["polygons", "ids"])
def test_groups_are_crowds_and_what_is_hidden_is_cut_off(folder: Folder, form: str) -> None:
    for name in NAMES:
        folder.add(name, SCENE, form=form)
    images = load_all(folder)
    assert [image.image_id for image in images] == [1, 2, 3]
    assert [image.file_name for image in images] == [f"{name}_leftImg8bit.png" for name in sorted(NAMES)]
    for image in images:
        found = [(row["category_id"], row["iscrowd"], row["area"]) for row in image.annotations]
        assert found == EXPECTED and image.image_hw == IMAGE_HW
        assert all(row["image_id"] == image.image_id for row in image.annotations)
        crowd, person, car, _ = (decode_mask(row["segmentation"], IMAGE_HW) for row in image.annotations)
        assert crowd[40:50, 40:60].all() and crowd[40:50, 70:80].all() and person[5:35, 35:45].all()
        assert car[10:20, 10:35].all() and not car[20:25, 10:15].any()
        assert image.annotations[1]["bbox"] == [35.0, 5.0, 10.0, 30.0]


def test_the_id_image_wins(folder: Folder) -> None:
    folder.add(NAMES[0], [box("bus", 0, 0, 10, 10)])
    folder.add(NAMES[0], SCENE, form="ids")
    assert len(load_all(folder)[0].annotations) == len(EXPECTED)


def test_from_the_folders_to_a_data_set_and_back(folder: Folder, tmp_path: Path) -> None:
    for name in NAMES:
        folder.add(name, SCENE)
    folder.add(NAMES[0], [box("sky", 0, 0, 60, 90)])  # an image without objects
    source = cityscapes_source(folder.root, "train")
    assert prepare(source, tmp_path / "prepared", "train", max_skip_fraction=0.0).num_objects == 2 * len(EXPECTED)
    dataset = open_dataset(f"{tmp_path / 'prepared'}:train")
    images = load_all(folder)
    expected = [annotation for image in images for annotation in image.annotations]
    assert dataset.coco_dict()["annotations"] == expected
    assert dataset.categories == CATEGORIES
    assert [len(dataset[index].objects) for index in range(3)] == [4, 0, 4]
    noise = cv2.imread(str(folder.path("leftImg8bit", sorted(NAMES)[0], "_leftImg8bit.png")))
    np.testing.assert_array_equal(dataset[0].image, noise[..., ::-1])


LABEL = {"imgHeight": IMAGE_HW[0], "imgWidth": IMAGE_HW[1], "objects": SCENE}


def with_object(**changes: Any) -> bytes:
    return json.dumps(LABEL | {"objects": [*SCENE, box("car", 1, 1, 5, 5) | changes]}).encode()


BAD_POLYGONS: list[tuple[str, bytes, str]] = [
    ("no JSON", b"{", "label is not valid JSON"),
    ("binary", b"\xff\x00", "label is not valid JSON"),
    ("nested", b"[" * 200_000, "label is not valid JSON"),
    ("a list", b"[]", "label has no list of objects"),
    ("no objects", b'{"imgHeight": 60, "imgWidth": 90}', "label has no list of objects"),
    ("object as number", json.dumps(LABEL | {"objects": [3]}).encode(), "label has no list of objects"),
    ("no size", json.dumps(LABEL | {"imgWidth": None}).encode(), "label has no imgHeight and imgWidth"),
    ("other size", json.dumps(LABEL | {"imgWidth": 10**9}).encode(), "size of the label differs from the image"),
    ("unknown label", with_object(label="unicorn"), "label names an unknown class"),
    ("unknown group", with_object(label="unicorngroup"), "label names an unknown class"),
    ("no label", with_object(label=None), "label names an unknown class"),
    ("two points", with_object(polygon=[[1, 1], [5, 5]]), "polygon has fewer than 3 points"),
    ("no polygon", with_object(polygon=None), "polygon has fewer than 3 points"),
    ("flat polygon", with_object(polygon=[1, 1, 5, 5, 1, 5]), "point of a polygon is not x, y"),
    ("three coordinates", with_object(polygon=[[1, 1, 1]] * 3), "point of a polygon is not x, y"),
    ("text", with_object(polygon=[["1", 1]] * 3), "polygon coordinate is not finite or far outside"),
    ("NaN", with_object(polygon=[[float("nan"), 1]] * 3), "polygon coordinate is not finite or far outside"),
    ("far away", with_object(polygon=[[10**12, 1]] * 3), "polygon coordinate is not finite or far outside"),
    (
        "too many",
        json.dumps(LABEL | {"objects": [box("car", 1, 1, 5, 5)] * 1001}).encode(),
        "more than 1000 objects of a class",
    ),
]


@pytest.mark.parametrize(("data", "reason"), [row[1:] for row in BAD_POLYGONS], ids=[row[0] for row in BAD_POLYGONS])
def test_bad_polygons_are_named(folder: Folder, data: bytes, reason: str) -> None:
    folder.add(NAMES[0], SCENE)
    folder.add(NAMES[1], SCENE)
    folder.polygons(NAMES[1]).write_bytes(data)
    source = cityscapes_source(folder.root, "train")
    assert len(source.load(0).annotations) == len(EXPECTED)
    with pytest.raises(ImageError) as caught:
        source.load(1)
    assert caught.value.reason == reason
    assert source.describe(1) == f"image 2 '{NAMES[1]}_leftImg8bit.png'"


BAD_IDS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("empty", lambda path: path.write_bytes(b""), "label cannot be decoded"),
    ("no image", lambda path: path.write_bytes(b"text"), "label cannot be decoded"),
    ("8 bits", lambda path: cv2.imwrite(str(path), np.zeros(IMAGE_HW, np.uint8)), "label is not a grey image of"),
    ("colour", lambda path: cv2.imwrite(str(path), np.zeros((*IMAGE_HW, 3), np.uint16)), "label is not a grey image"),
    ("other size", lambda path: cv2.imwrite(str(path), np.zeros((9, 9), np.uint16)), "size of the label differs from"),
    ("a folder", lambda path: path.mkdir(), "label is not a regular file"),
    ("dangling", lambda path: path.symlink_to("none"), "label is missing"),
    ("leads away", lambda path: path.symlink_to("/etc/hosts"), "file name leads outside"),
]


@pytest.mark.parametrize(("write", "reason"), [row[1:] for row in BAD_IDS], ids=[row[0] for row in BAD_IDS])
def test_bad_id_images_are_named(folder: Folder, write: Callable[[Path], Any], reason: str) -> None:
    folder.add(NAMES[0], SCENE)
    write(folder.ids(NAMES[0]))
    with pytest.raises(ImageError, match=reason):
        cityscapes_source(folder.root, "train").load(0)


def test_bad_images_are_named(folder: Folder) -> None:
    for name in NAMES:
        folder.add(name, SCENE)
    folder.path("leftImg8bit", NAMES[0], "_leftImg8bit.png").write_bytes(b"")
    folder.polygons(NAMES[1]).unlink()
    source = cityscapes_source(folder.root, "train")
    for index, reason in ((1, "image cannot be decoded"), (2, "label is missing")):
        with pytest.raises(ImageError, match=reason):
            source.load(index)
    source.load(0)


def test_missing_folders_and_labels_are_one_line(folder: Folder) -> None:
    with pytest.raises(DataError, match=r"leftImg8bit/train does not exist\. Expected leftImg8bit/SPLIT and gtFine"):
        cityscapes_source(folder.root, "train")
    with pytest.raises(DataError, match="is not a Cityscapes folder: it has no leftImg8bit/train or leftImg8bit/val"):
        find_splits(folder.root)
    folder.add(NAMES[0], SCENE, split="test")
    folder.polygons(NAMES[0], "test").unlink()
    hint = "contains no labelled object of any class. The labels of Cityscapes' test images are not published"
    with pytest.raises(DataError, match=hint):
        cityscapes_source(folder.root, "test")
    for form in ("polygons", "ids"):  # what the archive has for the test images
        folder.add(NAMES[0], [box("ego vehicle", 0, 0, 60, 90)], split="test", form=form)
        with pytest.raises(DataError, match=hint):
            cityscapes_source(folder.root, "test")
    with pytest.raises(DataError, match="is not a Cityscapes folder"):
        find_splits(folder.root)
    (folder.root / "leftImg8bit" / "val").mkdir()
    (folder.root / "gtFine" / "val").mkdir()
    assert find_splits(folder.root) == ("val",)
    with pytest.raises(DataError, match="has no images"):
        cityscapes_source(folder.root, "val")


def test_fingerprint_follows_the_source(folder: Folder) -> None:
    prints = []
    for name, objects, form in (
        (NAMES[0], SCENE, "polygons"),
        (NAMES[0], SCENE[:-1], "polygons"),
        (NAMES[0], SCENE, "ids"),
        (NAMES[1], SCENE, "polygons"),
    ):
        folder.add(name, objects, form=form)
        prints += [cityscapes_source(folder.root, "train").fingerprint for _ in range(2)]
    assert prints[::2] == prints[1::2] and len(set(prints)) == 4


def run_script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), "cityscapes", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_script_prepares_the_splits_that_are_there(folder: Folder, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        folder.add(NAMES[0], SCENE if split != "test" else [], split=split)
    to = tmp_path / "prepared"
    done = run_script("--root", folder.root, "--to", to)
    assert done.returncode == 0, done.stderr
    for split in ("train", "val"):
        assert f"Wrote {to / split}: 1 images, 4 objects, 8 classes from cityscapes {split}." in done.stdout
    assert f"--data.train {to}:train --data.val {to}:val" in done.stdout
    done = run_script("--root", folder.root, "--to", to, "--split", "val", "test")
    assert done.returncode == DataError.exit_code and f"Reused {to / 'val'}" in done.stdout
    assert len(done.stderr.splitlines()) == 1 and "test images are not published" in done.stderr
