"""Notations of other tools: boxes by the names of their sides, keypoints by name, tables, ids of databases."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.image_names import ImageFolder
from mrcnn_jax.data.images import turn_as_stored
from mrcnn_jax.data.notations import read_text, rewrite_annotation
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.errors import DataError

NAMES = ("nose", "tail", "paw")
IN_ORDER = [1, 2, 2, 0, 0, 0, 5, 6, 1]


@pytest.mark.parametrize(
    "bbox",
    [
        {"x": 4, "y": 6, "width": 10, "height": 12},
        {"X": 4, "Y": "6", "W": 10, "H": 12},
        {"left": 4, "top": 6, "width": 10, "height": 12},
        {"left": 4, "top": 6, "right": 14, "bottom": 18},
        {"xmin": 4, "ymin": 6, "xmax": 14, "ymax": 18},
        {"x1": "4", "y1": 6, "x2": 14, "y2": 18.0},
        [[4, 6], [14, 18]],
        [[14, 6], [4, 18]],
        "[4, 6, 10, 12]",
        "(4.0, 6.0, 10.0, 12.0)",
        "[ 4.  6. 10. 12.]",
        "4,6,10,12",
        "{'x': 4, 'y': 6, 'w': 10, 'h': 12}",
    ],
    ids=str,
)
def test_a_box_with_named_sides_is_that_box(bbox: Any) -> None:
    rewritten, repairs = rewrite_annotation({"id": 1, "bbox": bbox}, ())
    assert list(map(float, rewritten["bbox"])) == [4, 6, 10, 12] and rewritten["id"] == 1
    assert repairs == ["bbox names its sides or corners"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0, [4, 6, 10, 12]), ("BoxMode.XYXY_ABS", [4, 6, 10, 12]), ("xyxy", [4, 6, 10, 12])]
    + [(mode, [4, 6, 14, 18]) for mode in (1, "XYWH_ABS", None, False, 4)],
)
def test_the_mode_of_a_box_is_followed(mode: Any, expected: list[int]) -> None:
    rewritten, _ = rewrite_annotation({"bbox": [4, 6, 14, 18], "bbox_mode": mode}, ())
    assert rewritten["bbox"] == expected


@pytest.mark.parametrize("bbox", [None, [], [1, 2, 3], {"x": 1}, {"left": None}, "text", "[1, 2", [[1, 2], [3]], 7])
def test_what_names_no_box_stays_as_it_is(bbox: Any) -> None:
    assert rewrite_annotation({"bbox": bbox}, ()) == ({"bbox": bbox}, [])


@pytest.mark.parametrize(
    "keypoints",
    [
        {"nose": [1, 2, 2], "paw": [5, 6, 1]},
        {"paw": {"x": 5, "y": 6, "v": 1}, "tail": None, "nose": [1, 2]},
        [{"name": "paw", "x": 5, "y": 6, "visibility": 1}, {"name": "nose", "x": 1, "y": 2}],
        [{"x": 1, "y": 2}, {"x": 0, "y": 0, "v": 0}, {"x": 5, "y": 6, "v": 1}],
        "[1, 2, 2, 0, 0, 0, 5, 6, 1]",
        "{'nose': (1, 2, 2), 'paw': (5, 6, 1)}",
    ],
    ids=str,
)
def test_keypoints_by_name_are_in_the_categorys_order(keypoints: Any) -> None:
    rewritten, repairs = rewrite_annotation({"keypoints": keypoints}, NAMES)
    assert rewritten["keypoints"] == IN_ORDER and repairs == ["keypoints are named or in another notation"]


def test_text_is_read_without_being_run() -> None:
    assert read_text("{'size': [2, 3], 'counts': b'abc'}") == {"size": [2, 3], "counts": "abc"}
    for text in ("", "()()", "[" * 100_000, "{1: 2", "[__import__('os')]", "(" + "1," * 600_000 + ")", "{'a', 'b'}["):
        assert read_text(text) is None


def test_outer_rings_keep_their_holes(small_coco: Any) -> None:
    square = [[4, 6], [14, 6], [14, 16], [4, 16]]
    hole = [[6, 8], [10, 8], [10, 12], [6, 12]]
    small_coco.content["annotations"] = []
    small_coco.add_object(1, 42, segmentation={"exterior": square, "interior": [hole]}, area=None)
    small_coco.add_object(2, 42, segmentation=[{"all_points_x": [4, 9, 9], "all_points_y": [6, 6, 16]}], area=None)
    with_hole, triangle = small_coco.prepare()[0].objects
    assert with_hole.area == 84 and 20 < triangle.area < 30


@pytest.mark.parametrize("nested", [True, False])
def test_points_that_name_their_sides_are_polygons(nested: bool) -> None:
    ring = [{"X": 4, "Y": 6}, {"X": 9, "Y": 6}, {"X": 9, "Y": 16}]
    rewritten, repairs = rewrite_annotation({"segmentation": [ring, ring] if nested else ring}, ())
    assert rewritten["segmentation"] == [[[4, 6], [9, 6], [9, 16]]] * (1 + nested)
    assert repairs == ["segmentation is in another notation"]


def test_tables_of_data_frames_are_their_rows(small_coco: Any, tmp_path: Path) -> None:
    expected = small_coco.prepare(max_skip_fraction=0.0)
    content = small_coco.content
    by_column = {
        name: {str(k): row.get(name) for k, row in enumerate(content["images"])} for name in ("id", "file_name")
    }
    in_lists = {name: [row[name] for row in content["categories"]] for name in ("id", "name")}
    names = list(content["annotations"][0])
    split = {"columns": names, "data": [[row.get(name) for name in names] for row in content["annotations"]]}
    small_coco.content = {"images": by_column, "categories": in_lists, "annotations": split}
    found = small_coco.prepare("again", max_skip_fraction=0.0)
    assert [category.name for category in found.categories] == ["zebra", "ant"]
    for k in range(3):
        assert [o.segmentation for o in found[k].objects] == [o.segmentation for o in expected[k].objects]


@pytest.mark.parametrize("ids", [{"ant": 90, "zebra": 7}, {"zebra": "7", "ant": 90.0}, {"7": "zebra", "90": "ant"}])
def test_categories_are_ids_by_name_or_names_by_id(small_coco: Any, ids: dict[str, Any]) -> None:
    small_coco.content["categories"] = ids
    categories = small_coco.prepare(max_skip_fraction=0.0).categories
    assert [(category.id, category.name) for category in categories] == [(7, "zebra"), (90, "ant")]


def test_ids_of_a_database_are_unwrapped(small_coco: Any) -> None:
    for image in small_coco.content["images"]:
        image["id"] = {"$oid": f"a5f1{image['id']}"}
    for row in small_coco.content["annotations"]:
        row["image_id"] = {"$oid": f"a5f1{row['image_id']}"}
        row["id"], row["category_id"] = {"$numberInt": str(row["id"])}, {"$numberLong": str(row["category_id"])}
    dataset = small_coco.prepare(max_skip_fraction=0.0)
    assert [len(dataset[k].objects) for k in range(3)] == [2, 2, 0]


def test_panoptic_annotations_are_named(small_coco: Any) -> None:
    small_coco.content["annotations"] = [{"image_id": 42, "file_name": "42.png", "segments_info": [{"id": 1}]}]
    with pytest.raises(DataError, match="panoptic2detection_coco_format"):
        small_coco.prepare()


def test_an_object_with_nothing_is_left_out_for_what_it_lacks(small_coco: Any) -> None:
    outside = [[900, 0, 901, 0, 901, 1]]
    small_coco.add_object(8, 6, bbox=None, segmentation=None)
    small_coco.add_object(9, 6, bbox=None, segmentation=[[1, 2, 3, 4]])
    small_coco.add_object(10, 6, bbox=[1, 2, 0, 0], segmentation=[[1, 2, 3, 4]])
    small_coco.add_object(11, 6, bbox="9 9", segmentation=outside)
    small_coco.prepare(max_skip_fraction=1.0)
    skipped = json.dumps(json.loads(next((small_coco.root / "prepared").rglob("skipped.json")).read_text()))
    assert "object has neither bbox nor segmentation" in skipped
    assert "segmentation has fewer than 3 points, and there is no bbox" in skipped
    assert "segmentation has fewer than 3 points, and bbox has no extent" in skipped


def test_images_that_were_converted_are_found_by_their_stem(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.jpg").write_bytes(b"x")
    for name in ("IMG_1.HEIC", "img_1.nef", "scan/IMG_1.dcm"):
        assert ImageFolder(tmp_path).locate(name) == (tmp_path / "IMG_1.jpg", True)


@pytest.mark.parametrize(("frame", "with_sizes"), [("stored", False), ("upright", True)])
def test_polygons_alone_tell_the_frame_of_a_rotated_image(tmp_path: Path, frame: str, with_sizes: bool) -> None:
    """Polygons that reach beyond one of the two frames, without boxes; the sizes are missing, or of stored pixels."""
    upright = np.full((90, 30, 3), 120, np.uint8)
    upright[70:85, 5:25] = (230, 40, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    stored = turn_as_stored(upright, 6)
    Image.fromarray(stored).save(tmp_path / "images" / "a.png", exif=exif)
    y, x = np.nonzero((stored if frame == "stored" else upright)[..., 0] == 230)
    x0, y0, x1, y1 = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
    image = {"id": 1, "file_name": "a.png"} | ({"height": 30, "width": 90} if with_sizes else {})
    # A second object reaches to the far end of the frame, where the other frame has ended.
    near = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    far = [[80, 2, 88, 2, 88, 8, 80, 8]] if frame == "stored" else [[2, 80, 8, 80, 8, 88, 2, 88]]
    rows = [{"id": k, "image_id": 1, "category_id": 1, "segmentation": o} for k, o in enumerate([near, far])]
    content = {"images": [image], "annotations": rows, "categories": [{"id": 1, "name": "box"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    prepare(coco_source(tmp_path / "images", tmp_path / "a.json"), tmp_path / "prepared", "train")
    record = open_dataset(str(tmp_path / "prepared"))[0]
    np.testing.assert_array_equal(record.image, upright)
    assert record.objects[0].bbox == (5, 70, 20, 15)
