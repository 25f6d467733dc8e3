"""Lists of images in other forms, and files of other formats, which are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.coco_file import read_coco
from mrcnn_jax.errors import DataError


def test_an_image_that_is_listed_once_for_each_object_is_joined(small_coco: Any) -> None:
    def read() -> tuple[list[tuple[int, list[int]]], list[str]]:
        small_coco.write()
        coco = read_coco(small_coco.annotations)
        listed = [(image.image_id, [item["id"] for item in image.annotations]) for image in coco.images]
        assert all(item["image_id"] == image.image_id for image in coco.images for item in image.annotations)
        assert coco.findings.num_images == len(coco.images)
        return listed, [*coco.findings.repaired, *coco.findings.notes]

    content = small_coco.content
    content["annotations"] = []
    for number, x in ((1, 2), (2, 12), (3, 22)):
        small_coco.add_object(number, 42 if number == 1 else 70 + number, bbox=[x, 4, 8, 8], segmentation=None)
        if number > 1:
            content["images"].append(content["images"][0] | {"id": 70 + number})
    assert read() == ([(42, [1, 2, 3]), (5, []), (6, [])], ["image is listed once for each object"])
    content["annotations"][2]["bbox"] = [11, 4, 9, 8]  # annotation 2 again, by somebody else
    listed, (note,) = read()
    assert listed[0] == (42, [1]) and len(listed) == 5 and "several image ids" in note
    content["annotations"][2] |= {"bbox": [22, 4, 8, 8], "image_id": 72}  # another image has two objects
    listed, (note,) = read()
    assert listed[3:] == [(72, [2, 3]), (73, [])] and "several image ids" in note


def test_images_may_be_file_names_by_id(small_coco: Any) -> None:
    small_coco.content["images"] = {"42": "42.png", "5": "5.jpg", "6": "6.png"}
    small_coco.write()
    images = read_coco(small_coco.annotations).images
    assert [(image.image_id, image.file_name, len(image.annotations)) for image in images] == [
        (42, "42.png", 2),
        (5, "5.jpg", 2),
        (6, "6.png", 0),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"shapes": [], "imagePath": "a.png", "imageData": None}, "LabelMe's JSON"),
        ({"a.png12": {"filename": "a.png", "size": 12, "regions": []}}, "VIA's own JSON"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "VIA's own JSON"),
        ({"videos": [{"id": 1}], "annotations": [], "categories": []}, "YouTube-VIS"),
        ([{"id": 1, "data": {"image": "a.png"}, "annotations": []}], "Label Studio's own JSON"),
        ([{"file_name": "a.png", "image_id": 1, "annotations": []}], "Detectron2's"),
        ([{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], "a list of detections"),
        ([{"image_id": 1, "bbox": [0, 0, 1, 1]}], "a list of annotations without images"),
        ({"info": {"a": 1}, "annotations": []}, "it has no list 'images'."),
    ],
)
def test_formats_of_other_tools_are_named(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        read_coco(path)
    assert message in str(caught.value)


def test_categories_that_are_off_by_one_are_refused(small_coco: Any) -> None:
    content = small_coco.content
    content["categories"] = [{"id": 0, "name": "ant"}, {"id": 1, "name": "bee"}, {"id": 2, "name": "cow"}]
    for ids, is_refused in (((1, 2, 3, 3), True), ((0, 2, 3, 1), False), ((2, 2, 3, 3), False), ((1, 2, 3, 4), False)):
        for annotation, category_id in zip(content["annotations"], ids, strict=True):
            annotation["category_id"] = category_id
        small_coco.write()
        if is_refused:
            with pytest.raises(DataError, match="count the categories from 1, but the list does from 0"):
                read_coco(small_coco.annotations)
        else:
            assert read_coco(small_coco.annotations).findings.objects  # some are left out, and named


def test_annotations_under_another_name_are_refused(small_coco: Any) -> None:
    small_coco.content["annotation"] = small_coco.content.pop("annotations")
    small_coco.write()
    with pytest.raises(DataError, match="but a list 'annotation' whose entries have an image_id"):
        read_coco(small_coco.annotations)


def test_the_folder_of_a_renamed_image_is_shown(small_coco: Any) -> None:
    (small_coco.images / "sub").mkdir()
    (small_coco.images / "42.png").rename(small_coco.images / "sub" / "42.png")
    small_coco.write()
    repaired = coco_source(small_coco.images, small_coco.annotations).load(0).findings.repaired
    assert repaired["image is found under another name"] == ["image 42 '42.png' -> 'sub/42.png'"]
