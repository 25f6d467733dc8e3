"""COCO files: ids, categories and structure are repaired or counted; what is no COCO file is one clear error."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.coco_file import read_coco
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
        b'{"images": 3, "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
        b"\x1f\x8b\x08damaged",
        gzip.compress(b"{}" * 99, mtime=0)[:-9],
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


Change = Callable[[dict[str, Any]], Any]
REPAIRS: list[tuple[str, Change, str]] = [
    (
        "image id as text",
        lambda c: c["annotations"][2].update(image_id="5"),
        "image_id is not an integer (annotation 3",
    ),
    ("annotation id twice", lambda c: c["annotations"][2].update(id=1), "id is not a unique integer (annotation"),
    ("no annotation id", lambda c: c["annotations"][2].pop("id"), "id is not a unique integer (annotation"),
    ("category by name", lambda c: c["annotations"][0].update(category_id="zebra"), "category_id is not an integer"),
    ("image id as float", lambda c: c["images"][2].update(id=6.0), "id is not a unique integer (image 6"),
    ("image id as bool", lambda c: c["images"][2].update(id=True), "id is not a unique integer (image 43"),
    ("image id too large", lambda c: c["images"][2].update(id=2**63), "id is not a unique integer (image 43"),
    ("image twice", lambda c: c["images"].append(dict(c["images"][0])), "image is listed twice (image 42 '42.png')"),
    ("no height", lambda c: c["images"][2].update(height=None), "size is missing and taken from the file (image 6)"),
    ("zero width", lambda c: c["images"][2].update(width=0), "size is missing and taken from the file (image 6)"),
    ("size as text", lambda c: c["images"][2].update(width="32"), "size is not of integers (image 6)"),
    ("category id twice", lambda c: c["categories"][1].update(id=90), "id is not a unique integer (category 91"),
    ("category name twice", lambda c: c["categories"][1].update(name="ant"), "category 90, now 'ant 90'"),
    ("no category name", lambda c: c["categories"][1].pop("name"), "name is missing (category 7)"),
    ("control characters", lambda c: c["categories"][1].update(name="\x1b[2J"), "cannot be printed (category 7 '[2J')"),
    ("no-break space", lambda c: c["categories"][1].update(name="a\u00a0b"), "cannot be printed (category 7 'a b')"),
    ("number as name", lambda c: c["categories"][1].update(name=7), "name is a number"),
    ("keypoints", lambda c: c["categories"][1].update(keypoints="nose"), "neither names nor the same number"),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in REPAIRS], ids=[row[0] for row in REPAIRS])
def test_odd_entries_are_repaired_and_named(small_coco: Any, change: Change, message: str) -> None:
    change(small_coco.content)
    small_coco.write()
    coco = read_coco(small_coco.annotations)
    (line,) = (line for line in coco.findings.describe() if line.startswith("Repaired: "))
    assert message.split(": ")[-1] in line
    assert len(coco.images) == 3 and len(coco.categories) == 2
    ids = [image.image_id for image in coco.images]
    assert len(set(ids)) == 3 and all(type(image_id) is int for image_id in ids)
    assert sum(len(image.annotations) for image in coco.images) == (1 if "category 91" in message else 4)


LEFT_OUT: list[tuple[str, Change, str]] = [
    ("unknown category", lambda c: c["annotations"][1].update(category_id=8), "its category is not in the file"),
    ("no category", lambda c: c["annotations"][1].pop("category_id"), "its category is not in the file"),
    ("category as object", lambda c: c["annotations"][1].update(category_id={}), "its category is not in the file"),
    (
        "unknown image",
        lambda c: c["annotations"][2].update(image_id=9),
        "its image is not in the file (annotation 3: image 9)",
    ),
    ("no object", lambda c: c["annotations"].append("text"), "annotation is not a JSON object (annotation 5)"),
    ("no file name", lambda c: c["images"][2].update(file_name=""), "image has no file_name (entry 2)"),
    ("image id twice", lambda c: c["images"][2].update(id=42), "several images have this id, to which objects refer"),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in LEFT_OUT], ids=[row[0] for row in LEFT_OUT])
def test_what_cannot_be_repaired_is_left_out_and_named(small_coco: Any, change: Change, message: str) -> None:
    change(small_coco.content)
    small_coco.write()
    findings = read_coco(small_coco.annotations).findings
    assert message in findings.describe()[0] and findings.repaired == {}


def test_ids_of_text_join_objects_and_images(small_coco: Any) -> None:
    for entry in small_coco.content["images"]:
        entry["id"] = f"frame {entry['id']}"
    for entry in small_coco.content["annotations"]:
        entry["image_id"] = f"frame {entry['image_id']}"
    small_coco.write()
    coco = read_coco(small_coco.annotations)
    assert [(image.image_id, image.file_name, len(image.annotations)) for image in coco.images] == [
        (1, "42.png", 2),
        (2, "5.jpg", 2),
        (3, "6.png", 0),
    ]


def test_the_forms_of_other_languages_lists(small_coco: Any) -> None:
    """R writes lists of one, MATLAB a lone entry without its list, others objects by id, or annotations in images."""
    content = small_coco.content
    lists = {"images": [{key: [value] for key, value in entry.items()} for entry in content["images"]]}
    one = {"images": content["images"][0], "annotations": content["annotations"][:2]}
    by_id = {"images": {str(entry.pop("id")): entry for entry in json.loads(json.dumps(content["images"]))}}
    inside = {"annotations": [], "images": json.loads(json.dumps(content["images"]))}
    for entry in inside["images"]:
        entry["annotations"] = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
    for changes, num_objects in ((lists, 4), (one, 2), (by_id, 4), (inside, 4)):
        small_coco.annotations.write_text(json.dumps(content | changes))
        assert sum(len(image.annotations) for image in read_coco(small_coco.annotations).images) == num_objects


def test_a_key_that_occurs_twice_is_refused(small_coco: Any) -> None:
    text = json.dumps(small_coco.content)
    small_coco.annotations.write_text(text[:-1] + ', "annotations": []}')
    with pytest.raises(DataError, match="has 'annotations' twice"):
        read_coco(small_coco.annotations)
    small_coco.content["categories"][0]["name"] = '"annotations"'
    small_coco.write()
    assert len(read_coco(small_coco.annotations).images) == 3


def test_skeletons_may_count_from_0_and_file_names_be_numbers(small_coco: Any) -> None:
    small_coco.content["categories"][0] |= {"keypoints": ["a", "b", "c"], "skeleton": [[0, 1], [1, 2]]}
    small_coco.content["images"][0]["file_name"] = 42
    small_coco.write()
    coco = read_coco(small_coco.annotations)
    assert coco.categories[1].skeleton == ((1, 2), (2, 3)) and coco.images[0].file_name == "42"
    assert "skeleton counts keypoints from 0" in coco.findings.repaired
    assert coco_source(small_coco.images, small_coco.annotations).load(0).image_hw == (24, 32)


def test_what_is_suspicious_is_said(small_coco: Any) -> None:
    def notes() -> str:
        small_coco.write()
        return "\n".join(read_coco(small_coco.annotations).findings.notes)

    assert "Warning" not in notes() and "pass --crowds objects" in notes()
    (line,) = read_coco(small_coco.annotations, crowds_are_objects=True).findings.notes
    assert line == "1 of 4 objects are crowds (iscrowd 1) and are taken as ordinary objects."
    small_coco.content["annotations"].append(small_coco.content["annotations"][0] | {"id": 77})
    assert "1 of 5 objects have the same box and class as another" in notes()
    small_coco.content["annotations"][-1] |= {"image_id": 6, "category_id": 8}
    assert "objects name the categories 8, but the file lists 90, 7" in notes()
    small_coco.content["annotations"][-1]["category_id"] = None
    assert "off by one" not in notes()
    small_coco.content["annotations"][-1]["category_id"] = 7
    small_coco.content["images"][2]["file_name"] = "42.png"
    assert "1 files have objects under several image ids (first: '42.png')" in notes()


def test_missing_categories_are_named_after_their_ids(small_coco: Any) -> None:
    del small_coco.content["categories"]
    small_coco.write()
    assert read_coco(small_coco.annotations).categories == (Category(7, "7"), Category(90, "90"))


def test_categories_may_be_given_by_name_alone(small_coco: Any) -> None:
    del small_coco.content["categories"]
    for annotation in small_coco.content["annotations"]:
        annotation["category_name"] = "cat" if annotation.pop("category_id") == 7 else "dog"
    small_coco.write()
    coco = read_coco(small_coco.annotations)
    assert coco.categories == (Category(1, "cat"), Category(2, "dog"))
    assert [a["category_id"] for image in coco.images for a in image.annotations] == [1, 2, 1, 1]


def test_a_list_of_images_alone_is_a_split_without_ground_truth(small_coco: Any) -> None:
    del small_coco.content["annotations"]
    small_coco.write()
    coco = read_coco(small_coco.annotations)
    assert not coco.has_annotations and "can be predicted" in coco.findings.notes[0]


def test_numbers_and_names_of_keypoints(small_coco: Any) -> None:
    for annotation in small_coco.content["annotations"]:
        annotation["keypoints"] = [1, 1, 2, 3, 3, 1]
    category = small_coco.content["categories"][0]
    category |= {"keypoints": ["a", "b"], "skeleton": [["a", "b"], [1, 9]]}
    small_coco.write()
    zebra, ant = read_coco(small_coco.annotations).categories
    assert zebra.keypoints == ("keypoint_1", "keypoint_2")
    assert ant == Category(90, "ant", ("a", "b"), ((1, 2),))


def test_byte_order_mark_and_utf_16_are_read(small_coco: Any) -> None:
    text = json.dumps(small_coco.content)
    for encoding in ("utf-8-sig", "utf-16"):
        small_coco.annotations.write_bytes(text.encode(encoding))
        assert len(read_coco(small_coco.annotations).images) == 3


def test_gzip_and_windows_1252_are_read(small_coco: Any) -> None:
    small_coco.content["categories"][0]["name"] = "fourmi ailée"
    text = json.dumps(small_coco.content, ensure_ascii=False)
    small_coco.annotations.write_bytes(gzip.compress(text.encode()))
    assert read_coco(small_coco.annotations).categories[1].name == "fourmi ailée"
    small_coco.annotations.write_bytes(text.encode("cp1252"))
    coco = read_coco(small_coco.annotations)
    assert coco.categories[1].name == "fourmi ailée" and "Windows-1252" in coco.findings.notes[0]


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
    path = small_coco.images / "42.png"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # the same size
    second = fingerprint()
    small_coco.content["annotations"][0]["area"] = 99
    small_coco.write()
    assert len({first, second, fingerprint()}) == 3
