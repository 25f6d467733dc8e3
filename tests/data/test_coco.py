"""COCO files: ids, categories and structure; everything that is no COCO file is one clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.data.coco import coco_source, read_coco
from mrcnn_jax.errors import DataError


def test_categories_ascend_by_id_and_objects_join_their_image(small_coco: Any) -> None:
    small_coco.write()
    coco = read_coco(small_coco.annotations)
    assert coco.categories == (Category(7, "zebra"), Category(90, "ant"))
    assert [(image.image_id, [a["id"] for a in image.annotations]) for image in coco.images] == [
        (42, [1, 2]),
        (5, [3, 4]),
        (6, []),
    ]


def test_keypoints_of_categories(small_coco: Any) -> None:
    small_coco.content["categories"][0] |= {"keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}
    small_coco.write()
    assert read_coco(small_coco.annotations).categories[1] == Category(90, "ant", ("nose", "tail"), ((1, 2),))


def test_images_without_annotations_can_be_left_out(small_coco: Any) -> None:
    small_coco.write()
    folder = small_coco.images
    whole = coco_source(folder, small_coco.annotations)
    objects = coco_source(folder, small_coco.annotations, annotated_only=True)
    assert (whole.num_images, objects.num_images) == (3, 2)
    assert (whole.num_left_out, objects.num_left_out) == (0, 1)
    assert whole.fingerprint != objects.fingerprint
    small_coco.content["categories"][0] |= {"keypoints": ["nose", "tail"], "skeleton": []}
    first, *others = small_coco.content["annotations"]
    first["keypoints"] = [1, 1, 2, 0, 0, 0]
    others[-1]["keypoints"] = [0] * 6
    small_coco.write()
    visible = coco_source(folder, small_coco.annotations, annotated_only=True)
    assert [visible.describe(index) for index in range(visible.num_images)] == [whole.describe(0)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no json",
        b'{"images": [',
        b"\xff\xfe\x00",
        b"[]",
        b'"text"',
        b"{}",
        b'{"images": {}, "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
        b'{"images": [3], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
        b'{"images": [], "annotations": [], "categories": []}',
        b"[" * 200_000,
        b'{"images": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda data: data[:20].decode("latin1"),
)
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.json"):
        read_coco(path)


CHANGES: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("unknown category", lambda c: c["annotations"][1].update(category_id=8), "annotation 2 refers to category 8"),
    ("no category", lambda c: c["annotations"][1].pop("category_id"), "annotation 2 refers to category None"),
    ("category as list", lambda c: c["annotations"][1].update(category_id=[7]), "annotation 2 refers to category"),
    ("unknown image", lambda c: c["annotations"][2].update(image_id=9), "annotation 3 refers to image 9"),
    ("image id as text", lambda c: c["annotations"][2].update(image_id="5"), "image_id of annotation 3"),
    ("annotation id twice", lambda c: c["annotations"][2].update(id=1), "id 1 occurs twice in 'annotations'"),
    ("no annotation id", lambda c: c["annotations"][2].pop("id"), "id of entry 2 of 'annotations'"),
    ("image id twice", lambda c: c["images"][2].update(id=42), "id 42 occurs twice in 'images'"),
    ("image id as float", lambda c: c["images"][2].update(id=6.0), "id of entry 2 of 'images'"),
    ("image id as bool", lambda c: c["images"][2].update(id=True), "id of entry 2 of 'images'"),
    ("image id too large", lambda c: c["images"][2].update(id=2**63), "id of entry 2 of 'images'"),
    ("no file name", lambda c: c["images"][2].update(file_name=""), "image 6 has no file_name"),
    ("no height", lambda c: c["images"][2].update(height=None), "height of image 6"),
    ("zero width", lambda c: c["images"][2].update(width=0), "image 6 has the invalid size 0x24"),
    ("category id twice", lambda c: c["categories"][1].update(id=90), "id 90 occurs twice in 'categories'"),
    ("category name twice", lambda c: c["categories"][1].update(name="ant"), "two categories are named 'ant'"),
    ("category without name", lambda c: c["categories"][1].pop("name"), "category 7 has no printable name"),
    ("control characters", lambda c: c["categories"][1].update(name="\x1b[2J"), "category 7 has no printable name"),
    ("keypoints", lambda c: c["categories"][1].update(keypoints="nose"), "keypoints of category 7"),
    ("skeleton", lambda c: c["categories"][1].update(skeleton=[1]), "skeleton of category 7"),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_broken_entries_are_named(small_coco: Any, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    change(small_coco.content)
    small_coco.write()
    with pytest.raises(DataError, match=message):
        read_coco(small_coco.annotations)


def test_byte_order_mark_and_utf_16_are_read(small_coco: Any) -> None:
    text = json.dumps(small_coco.content)
    for encoding in ("utf-8-sig", "utf-16"):
        small_coco.annotations.write_bytes(text.encode(encoding))
        assert len(read_coco(small_coco.annotations).images) == 3


def test_missing_inputs_are_named(small_coco: Any) -> None:
    with pytest.raises(DataError, match="Cannot read the annotation file"):
        coco_source(small_coco.images, small_coco.root / "none.json")
    with pytest.raises(DataError, match=r"image folder .* does not exist"):
        coco_source(small_coco.root / "none", small_coco.annotations)
    small_coco.content |= {"images": [], "annotations": []}
    small_coco.write()
    with pytest.raises(DataError, match="lists no images"):
        coco_source(small_coco.images, small_coco.annotations)


def test_fingerprint_follows_the_source(small_coco: Any) -> None:
    def fingerprint() -> str:
        return coco_source(small_coco.images, small_coco.annotations).fingerprint

    small_coco.write()
    first = fingerprint()
    assert fingerprint() == first
    with (small_coco.images / "42.png").open("ab") as file:
        file.write(b"more")
    second = fingerprint()
    small_coco.content["annotations"][0]["area"] = 99
    small_coco.write()
    assert len({first, second, fingerprint()}) == 3
