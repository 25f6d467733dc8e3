"""Pascal VOC: pictures of objects and classes, void pixels, lists of splits, boxes, and files that do not fit."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mrcnn_jax.data.bitmaps import decode_mask
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.formats.voc import official_colours
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.errors import DataError
from tests.data.formats import mask_writers, writers
from tests.data.formats.helpers import findings, objects, photo, read
from tests.data.formats.writers import Photo, make_photos


def border(photo: Photo) -> np.ndarray:
    numbers = photo.numbers()
    return cv2.dilate((numbers > 0).astype(np.uint8), np.ones((3, 3))).astype(bool) & (numbers == 0)


def test_void_pixels_are_not_evaluated(tmp_path: Path) -> None:
    photos = make_photos(2)
    (source,) = read(mask_writers.voc(photos, border), tmp_path).sources.values()
    prepare(source, tmp_path / "to", "train")
    content = open_dataset(f"{tmp_path / 'to'}").coco_dict()
    for image, given in zip(content["images"], photos, strict=True):
        assert (decode_mask(image["void"], given.image_hw) == border(given)).all()
    assert len(content["annotations"]) == 8


def test_the_official_palette() -> None:
    colours = {number: colour for colour, number in official_colours().items()}
    red_green_blue = {1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {k: colours[k] for k in red_green_blue} == {
        k: r + 256 * g + 65536 * b for k, (r, g, b) in red_green_blue.items()
    }


def test_classes_by_number_and_by_colour(tmp_path: Path) -> None:
    numbers = np.zeros((40, 60), np.uint8)
    numbers[5:15, 5:15], numbers[20:30, 20:40] = 1, 2
    classes = np.where(numbers == 1, 15, np.where(numbers == 2, 12, 0))  # person, dog
    palette = np.zeros((256, 3), np.uint8)
    for colour, number in official_colours().items():
        palette[number] = colour % 256, colour // 256 % 256, colour // 65536
    for name, draw in (("numbers", writers.png), ("colours", lambda values: writers.png_of_colours(palette[values]))):
        files = {
            "JPEGImages/a.png": photo(),
            "SegmentationObject/a.png": draw(numbers),
            "SegmentationClass/a.png": draw(classes),
        }
        (tmp_path / name).mkdir()
        (source,) = read(files, tmp_path / name).sources.values()
        assert [(item["class"], item["area"]) for item in objects(source)] == [("person", 100), ("dog", 200)]
        assert len(source.categories) == 20


def test_lists_are_splits(tmp_path: Path) -> None:
    photos = make_photos(4)
    lists = {"train": "0\n1\n", "val": "2\n", "trainval": "0\n1\n2\n"}
    files = {f"VOC/ImageSets/Segmentation/{name}.txt": text.encode() for name, text in lists.items()}
    sources = read(mask_writers.voc(photos) | files, tmp_path).sources
    assert {name: source.num_images for name, source in sources.items()} == {"train": 2, "val": 1}
    assert any("1 images are in no list of ImageSets/Segmentation" in note for note in sources["train"].findings.notes)


def xml(*boxes: tuple[str, str, str, str], filename: str = "a.png") -> bytes:
    rows = "".join(
        "<object><name>fig</name><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for box in boxes
    )
    size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{size}{rows}</annotation>".encode()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (("5", "5", "60", "40"), [9, 19, 12, 11]),
        (("0", "5", "9", "9"), [10, 20, 11, 10]),
        (("1.5", "5", "9", "9"), [10, 20, 11, 10]),
    ],
)
def test_boxes_count_from_one_unless_one_cannot(other: tuple[str, ...], expected: list[int], tmp_path: Path) -> None:
    files = {"Annotations/a.xml": xml(("10", "20", "21", "30"), other), "JPEGImages/a.png": photo()}
    (source,) = read(files, tmp_path).sources.values()
    assert objects(source)[0]["bbox"] == expected


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    photos = make_photos(4)
    files = mask_writers.voc(photos)
    files["VOC/SegmentationObject/0.png"] = b"no picture"
    del files["VOC/SegmentationClass/1.png"], files["VOC/JPEGImages/2.png"]
    files["VOC/SegmentationClass/3.png"] = writers.png(np.where(photos[3].numbers() == 1, 0, 9))
    files["VOC/JPEGImages/other.png"] = photo()
    (source,) = read(files, tmp_path).sources.values()
    lines = "\n".join(findings(source, tmp_path))
    for reason in (
        "1 x mask cannot be decoded ('VOC/SegmentationObject/0.png')",
        "1 x mask in SegmentationObject has none in SegmentationClass ('VOC/SegmentationObject/1.png')",
        "1 x mask has no image ('VOC/SegmentationObject/2.png')",
        "1 x object has no class (object 1 of image 1 '3.png')",
        "5 x class of the object is not in the list of names (object 2",
        "1 images have no mask and are left out ('VOC/JPEGImages/other.png')",
    ):
        assert reason in lines, reason


def test_bad_boxes_and_documents(tmp_path: Path) -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    files = {
        "a.xml": xml(("10", "20", "21", "30"), ("x", "1", "2", "3")),
        "a.png": photo(),
        "b.xml": bomb,
        "c.xml": b"<annotation>",
        "d.xml": b"<annotation>" + b"<x>" * 200,
    }
    (source,) = read(files, tmp_path, "voc").sources.values()
    lines = "\n".join(findings(source, tmp_path))
    for reason in (
        "object has neither a polygon nor a bndbox of four numbers (object 2",
        "XML file declares a document type ('b.xml')",
        "file is not valid XML ('c.xml')",
        "XML file is nested too deeply ('d.xml')",
    ):
        assert reason in lines, reason


def test_classes_alone_are_no_objects(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no SegmentationObject: objects are not separated"):
        read({"SegmentationClass/a.png": writers.png(np.ones((40, 60))), "a.png": photo()}, tmp_path, "voc")
