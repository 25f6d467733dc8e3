"""CVAT for images: every shape, skeletons, groups, subsets, and what is left out."""

from pathlib import Path

import numpy as np
import pytest

from mrcnn_jax.data.bitmaps import decode_mask
from mrcnn_jax.errors import DataError
from tests.data.formats.helpers import findings, objects, photo, read

SKELETON = (
    "<label><name>person</name><type>skeleton</type></label>"
    "<label><name>left_eye</name><type>points</type><parent>person</parent></label>"
    "<label><name>right_eye</name><type>points</type><parent>person</parent></label>"
    "<label><name>nose</name><type>points</type><parent>person</parent></label>"
)
TRIANGLE = '<polygon label="fig" points="2.50,2.00;12.00,2.00;2.50,12.00" occluded="1" z_order="0" group_id="{}"/>'


def document(*shapes: str, labels: str = "<label><name>fig</name></label>", subset: str = "") -> bytes:
    image = f'<image id="0" name="a.png" width="60" height="40" {subset}>{"".join(shapes)}</image>'
    meta = f"<meta><job><labels>{labels}</labels></job></meta>"
    return f"<annotations><version>1.1</version>{meta}{image}</annotations>".encode()


def files_of(*shapes: str, labels: str = "<label><name>fig</name></label>", subset: str = "") -> dict[str, bytes]:
    return {"annotations.xml": document(*shapes, labels=labels, subset=subset), "images/a.png": photo()}


def test_every_shape(tmp_path: Path) -> None:
    shapes = [
        TRIANGLE.format(0),
        '<box label="fig" xtl="10.0" ytl="10.0" xbr="30.0" ybr="20.0"/>',
        '<box label="fig" xtl="10.0" ytl="10.0" xbr="30.0" ybr="20.0" rotation="90.0"/>',
        '<ellipse label="fig" cx="30" cy="20" rx="10" ry="5"/>',
        '<mask label="fig" rle="1, 2, 2, 3, 1" left="56" top="38" width="3" height="3"/>',
        '<points label="fig" points="5,6;9,16"><attribute name="a">b</attribute></points>',
    ]
    (source,) = read(files_of(*shapes), tmp_path).sources.values()
    triangle, box, turned, ellipse, mask, points = objects(source)
    assert triangle["segmentation"] == [[2.5, 2, 12, 2, 2.5, 12]] and not triangle["iscrowd"]
    assert box["bbox"] == [10, 10, 20, 10] and "segmentation" not in box
    assert turned["bbox"] == pytest.approx([15, 5, 10, 20])
    assert ellipse["bbox"] == [20, 15, 20, 10]
    expected = np.zeros((40, 60), np.uint8)
    expected[38, 57:59] = expected[39, 58] = 1  # rows 011, 001; the third, 110, lies outside the image
    expected[39, 58] = 1
    assert (decode_mask(mask["segmentation"], (40, 60)) == expected).all()
    assert points["keypoints"] == [5, 6, 2, 9, 16, 2] and source.categories[0].keypoints == ("keypoint_1", "keypoint_2")


def test_skeletons_have_their_labels_order(tmp_path: Path) -> None:
    skeleton = (
        '<skeleton label="person" group_id="3">'
        '<points label="nose" occluded="1" outside="0" points="20.0,10.0"/>'
        '<points label="left_eye" occluded="0" outside="0" points="25.0,5.0"/>'
        '<points label="right_eye" occluded="0" outside="1" points="1.0,1.0"/></skeleton>'
    )
    box = '<box label="person" xtl="10" ytl="0" xbr="30" ybr="40" group_id="3"/>'
    alone = skeleton.replace('group_id="3"', "")
    (source,) = read(files_of(box, skeleton, alone, labels=SKELETON), tmp_path).sources.values()
    assert source.categories[0].keypoints == ("left_eye", "right_eye", "nose")
    joined, second = objects(source)
    assert joined["keypoints"] == second["keypoints"] == [25, 5, 2, 0, 0, 0, 20, 10, 1]
    assert joined["bbox"] == [10, 0, 20, 40] and second["bbox"] == [20, 5, 5, 5]


def test_groups_are_objects(tmp_path: Path) -> None:
    other = '<mask label="fig" rle="0, 9" left="40" top="30" width="3" height="3" group_id="7"/>'
    (source,) = read(
        files_of(TRIANGLE.format(7), other, TRIANGLE.format(0), TRIANGLE.format(0)), tmp_path
    ).sources.values()
    found = objects(source)
    assert len(found) == 3
    mask = decode_mask(found[0]["segmentation"], (40, 60))
    assert mask[30:33, 40:43].all() and mask.sum() == 9 + found[1]["area"]


def test_subsets_are_splits(tmp_path: Path) -> None:
    files = {
        "a/annotations.xml": document(TRIANGLE.format(0), subset='subset="Validation"'),
        "a/images/Validation/a.png": photo(seed=1),
        "b/annotations.xml": document(TRIANGLE.format(0), subset='subset="my set"'),
        "b/images/my set/a.png": photo(seed=2),
    }
    sources = read(files, tmp_path).sources
    assert {name: source.load(0).data for name, source in sources.items()} == {
        "my_set": photo(seed=2),
        "val": photo(seed=1),
    }


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    shapes = [
        TRIANGLE.format(0),
        '<polyline label="fig" points="1,1;2,2"/>',
        "<tag/>",
        '<star label="fig"/>',
        '<box label="fig" xtl="1"/>',
        '<mask label="fig" rle="1, 2" left="0" top="0" width="3" height="3"/>',
        '<mask label="fig" rle="0, 9" left="90" top="0" width="3" height="3"/>',
        '<skeleton label="fig"/>',
    ]
    files = files_of(*shapes) | {"images/b.png": photo()}
    (source,) = read(files, tmp_path).sources.values()
    lines = "\n".join(findings(source, tmp_path))
    for reason in (
        "1 x shape has no area (polyline 2",
        "1 x shape has no label (tag 3",
        "1 x shape is of an unknown kind (star 4",
        "1 x shape has no usable points (box 5",
        "1 x run lengths do not fit their rectangle (mask 6",
        "1 x mask lies outside the image (mask 7",
        "1 x skeleton has no keypoint in the image (skeleton 8",
        "1 images have no annotation and are left out ('images/b.png')",
    ):
        assert reason in lines, reason


def test_videos_are_refused(tmp_path: Path) -> None:
    text = b'<annotations><track id="0" label="fig"/></annotations>'
    with pytest.raises(
        DataError, match=r"no annotated image. Warning: 1 tracks of annotations.xml are left out: export"
    ):
        read({"annotations.xml": text, "a.png": photo()}, tmp_path)
