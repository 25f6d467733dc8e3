"""Annotations in the forms that exports write: what they mean is read exactly, and every repair has a name."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_jax.data.annotations import find_fault
from mrcnn_jax.data.bitmaps import decode_mask
from mrcnn_jax.data.file_form import find_file_form
from mrcnn_jax.data.mask_boxes import mask_bbox
from mrcnn_jax.data.notations import rewrite_annotation
from mrcnn_jax.data.read_object import FileForm, ReadObject
from mrcnn_jax.data.read_object import read_object as read_rewritten
from mrcnn_jax.data.segmentations import read_segmentation

IMAGE_HW = (24, 32)
FORM = FileForm({7: 2})
NAN = float("nan")
MASK = np.zeros(IMAGE_HW, np.uint8)
MASK[6:16, 4:14] = 1  # the square of `one_object`
ROW_MAJOR = [6 * 32 + 4, *[10, 22] * 9, 10, 24 * 32 - 15 * 32 - 14]
COLUMN_MAJOR = [4 * 24 + 6, *[10, 14] * 9, 10, 18 * 24 + 8]
TEXT = coco_mask.encode(np.asfortranarray(MASK))["counts"].decode()

SAME_MASK: list[tuple[object, str | None]] = [
    ([[4, 6, 14, 6, 14, 16, 4, 16]], None),
    ([[4, 6, 14, 6, 14, 16, 4, 16, 4, 6]], None),
    ([4, 6, 14, 6, 14, 16, 4, 16], "in another form"),
    ([[[4, 6, 14, 6, 14, 16, 4, 16]]], "in another form"),
    ([[4, 6], [14, 6], [14, 16], [4, 16]], "in another form"),
    ([[[4, 6], [14, 6], [14, 16], [4, 16]]], "in another form"),
    ([{"x": 4, "y": 6}, {"x": 14, "y": 6}, {"x": 14, "y": 16}, {"x": 4, "y": 16}], "in another form"),
    ([["4", "6", "14", "6", "14", "16", "4", "16"]], "in another form"),
    ([["4,0", "6,0", "14px", "6", "14.0", "16,00", "4 ", "1.6e1"]], "in another form"),
    ("[[4, 6, 14, 6, 14, 16, 4, 16]]", "another notation"),
    ("[(4, 6), (14, 6), (14, 16), (4, 16)]", "another notation"),
    (str({"size": [24, 32], "counts": TEXT.encode()}), "another notation"),
    ("POLYGON ((4 6, 14 6, 14 16, 4 16, 4 6))", "another notation"),
    ("MultiPolygon(((4.0 6, 14e0 6, 14 16, 4 16)))", "another notation"),
    ({"exterior": [[4, 6], [14, 6], [14, 16], [4, 16]], "interior": []}, "another notation"),
    ({"points": {"exterior": [[4, 6], [14, 6], [14, 16], [4, 16]], "interior": []}}, "another notation"),
    ({"all_points_x": [4, 14, 14, 4], "all_points_y": [6, 6, 16, 16]}, "another notation"),
    ([{"X": 4, "Y": 6}, {"X": 14, "Y": 6}, {"X": 14, "Y": 16}, {"X": 4, "Y": 16}], "another notation"),
    ([{"x": [4, 14, 14, 4], "y": [6, 6, 16, 16]}], "another notation"),
    ({"Points": [{"X": 4, "Y": 6}, {"X": 14, "Y": 6}, {"X": 14, "Y": 16}, {"X": 4, "Y": 16}]}, "another notation"),
    ([[4, 14, 14, 4], [6, 6, 16, 16]], "list of x and one of y"),
    ([[4, 6, 14, 6, 14, 16, 4, 16], [20, 20]], "fewer than 3 points"),
    ([[4, 6, 14, 6, 14, 16, 4, 16], [20, 20, 21, 20, 22, 20]], "a part without extent"),
    ([[4, 6, 14, 6, 14, 16, 4, 16], []], "fewer than 3 points"),
    ([[4, 6, 14, 6, 14, 16, 4, 16], [1, 2, 3, 4, 5, 6, 7]], "odd number"),
    ([[4, 6, 14, 6, 14, 16, None, None, 4, 16]], "without finite coordinates"),
    ([[4, 6, 14, 6, NAN, 1, 14, 16, 4, 16]], "without finite coordinates"),
    ([[4, 6, 14, 6, 14, 16, 4, 16], [0, 0, 1e9, 0, 1, 1]], "far outside"),
    ({"size": [24, 32], "counts": COLUMN_MAJOR}, None),
    ({"size": [24, 32], "counts": TEXT}, None),
    ({"size": [24.0, "32"], "counts": TEXT}, "not of integers"),
    ({"counts": COLUMN_MAJOR}, "size of the run lengths is missing"),
    ({"size": None, "counts": COLUMN_MAJOR}, "size of the run lengths is missing"),
    ({"size": [32, 24], "counts": COLUMN_MAJOR}, "width first"),
    ({"size": [32, 24], "counts": ROW_MAJOR}, "row by row"),
    ({"size": [24, 32], "counts": ROW_MAJOR}, "row by row"),
    ({"size": [24, 32], "counts": COLUMN_MAJOR[:-1]}, "last run"),
    ([[4, 6, 14, 6, 14, 16, 4, 16, None, None, 5, 7, 6, 7, 6, 8]], "in another form"),
    ([[[4, 6]], [[14, 6]], [[14, 16]], [[4, 16]]], "in another form"),
    ({"size": [24, 32], "counts": [float(count) for count in COLUMN_MAJOR]}, "run lengths are not integers"),
    ({"size": [24, 32], "counts": [str(count) for count in COLUMN_MAJOR]}, "run lengths are not integers"),
    ([{"size": [24, 32], "counts": TEXT}], "in another form"),
    ({"size": [24, 32], "counts": str(TEXT.encode())}, "Python bytes"),
]


def read_object(given: dict[str, Any], image_hw: tuple[int, int], form: FileForm) -> ReadObject:
    """Reads an annotation as the reader of files does."""
    rewritten, repairs = rewrite_annotation(given, ("nose", "tail"))
    read = read_rewritten(rewritten, image_hw, form)
    return ReadObject(read.annotation, read.left_out, repairs + read.repairs)


@pytest.mark.parametrize(("segmentation", "repair"), SAME_MASK, ids=lambda value: str(value)[:60])
def test_a_mask_in_any_form_is_the_same_mask(
    one_object: Callable[..., dict[str, Any]], segmentation: object, repair: str | None
) -> None:
    given = one_object(segmentation=segmentation, iscrowd=0)
    read = read_object(given, IMAGE_HW, FORM)
    assert read.annotation is not None
    np.testing.assert_array_equal(decode_mask(read.annotation["segmentation"], IMAGE_HW), MASK)
    assert find_fault(read.annotation, IMAGE_HW) is None
    assert read.annotation["bbox"] == [4, 6, 10, 10] and read.annotation["area"] == 100
    if repair is None:
        assert read.repairs == []
    else:
        assert any(repair in reason for reason in read.repairs)


@pytest.mark.parametrize(
    "segmentation",
    [
        "text",
        "[[1, 2",
        7,
        True,
        {"size": [24, 32]},
        {"points": [[1, 2]]},
        [[1, 2, 3, 4]],
        [[1, 2], [3, 4]],
        [[[[[[[[1]]]]]]]],
    ]
    + [{"size": size, "counts": counts} for size, counts in (([9, 9], [81]), ([24, 32], [700, 69]), ([24, 32], [5]))],
    ids=str,
)
def test_what_is_no_mask_leaves_the_box(one_object: Callable[..., dict[str, Any]], segmentation: object) -> None:
    read = read_object(one_object(segmentation=segmentation), IMAGE_HW, FORM)
    assert read.annotation is not None and "segmentation" not in read.annotation
    assert any("the box is kept" in reason for reason in read.repairs)
    assert read_object(one_object(segmentation=segmentation, bbox=None), IMAGE_HW, FORM).left_out


@pytest.mark.parametrize(
    "segmentation",
    [
        [[4, 6, 9, 6, 14, 6]],
        {"size": [24, 32], "counts": [768]},
        {"size": [24, 32], "counts": [768, 0]},
        [[100, 100, 120, 100, 120, 120]],
    ],
    ids=str,
)
def test_objects_whose_mask_is_empty_are_left_out(one_object: Callable[..., Any], segmentation: object) -> None:
    assert read_object(one_object(segmentation=segmentation), IMAGE_HW, FORM).left_out == "mask is empty"


def test_objects_without_a_mask_keep_their_box(one_object: Callable[..., Any]) -> None:
    for segmentation in ([], None, {}, ""):
        read = read_object(one_object(segmentation=segmentation), IMAGE_HW, FORM)
        assert read.annotation == {"id": 1, "category_id": 7, "bbox": [4, 6, 10, 10], "iscrowd": 0, "area": 100}
        assert read.repairs == []


@pytest.mark.parametrize(
    ("changes", "repair"),
    [
        ({"bbox": None}, "bbox is missing"),
        ({"bbox": []}, "bbox is missing"),
        ({"bbox": [0, 0, 0, 0]}, "bbox is not usable"),
        ({"bbox": [4, 16, 10, -10]}, "negative width or height"),
        ({"bbox": "text"}, "bbox is not usable"),
        ({"bbox": [1, 2, NAN, 4]}, "bbox is not usable"),
        ({"bbox": [20, 0, 10, 5]}, "bbox does not fit the mask"),
        ({"bbox": ["4", "6", "10", "10"]}, "bbox is not a list of four"),
        ({"area": "100"}, "area is text"),
        ({"area": NAN}, "area is not a possible"),
        ({"area": 0}, "area is not a possible"),
        ({"area": -5}, "area is not a possible"),
        ({"area": 1e12}, "area is not a possible"),
        ({"iscrowd": None}, "iscrowd is not 0 or 1"),
        ({"iscrowd": "0"}, "iscrowd is not 0 or 1"),
        ({"iscrowd": 3}, "iscrowd is not 0 or 1"),
    ],
    ids=str,
)
def test_other_fields_are_repaired(one_object: Callable[..., Any], changes: dict[str, Any], repair: str) -> None:
    read = read_object(one_object(**changes), IMAGE_HW, FORM)
    assert read.annotation is not None and any(repair in reason for reason in read.repairs)
    assert (read.annotation["bbox"], read.annotation["area"], read.annotation["iscrowd"]) == ([4, 6, 10, 10], 100, 0)


def test_valid_numbers_stay_exactly_as_they_are(one_object: Callable[..., dict[str, Any]]) -> None:
    given = one_object(bbox=[4.013, 6, 10.25, 10.1], area=93.217, iscrowd=1, keypoints=[5, 7, 2, 0, 0, 0], extra="kept")
    read = read_object(given, IMAGE_HW, FORM)
    assert read.annotation == given and read.repairs == []


def test_crowds_can_be_taken_as_objects(one_object: Callable[..., dict[str, Any]]) -> None:
    read = read_object(one_object(iscrowd=True), IMAGE_HW, FileForm({}, crowds_are_objects=True))
    assert read.annotation is not None and read.annotation["iscrowd"] == 0
    box_alone = read_object(one_object(iscrowd=1, segmentation=None), IMAGE_HW, FORM)
    assert box_alone.annotation is not None and box_alone.annotation["segmentation"] == [[4, 6, 14, 6, 14, 16, 4, 16]]


@pytest.mark.parametrize(
    ("keypoints", "expected"),
    [
        ([5, 7, 2, 0, 0, 0], [5, 7, 2, 0, 0, 0]),
        ([[5, 7, 2], [6, 8, 1]], [5, 7, 2, 6, 8, 1]),
        ([[5, 7], [6, 8]], [5, 7, 2, 6, 8, 2]),
        ([5, 7, 6, 8], [5, 7, 2, 6, 8, 2]),
        ([5, 7, 2, None, None, 0], [5, 7, 2, 0, 0, 0]),
        ([5, 7, 2, None, None, None], [5, 7, 2, 0, 0, 0]),
        ([5, 7, 2, NAN, 3, 2], [5, 7, 2, 0, 0, 0]),
        ([5, 7, 2, 1e9, 3, 2], [5, 7, 2, 0, 0, 0]),
        (["5", "7", "2", 6, 8, True], [5, 7, 2, 6, 8, 1]),
        ([5, 7, 2], None),
        ("text", None),
        ([], None),
    ],
    ids=str,
)
def test_keypoints(one_object: Callable[..., Any], keypoints: object, expected: list[float] | None) -> None:
    read = read_object(one_object(keypoints=keypoints), IMAGE_HW, FORM)
    assert read.annotation is not None and read.annotation.get("keypoints") == expected
    assert find_fault(read.annotation, IMAGE_HW, 2) is None


def test_shares_of_the_image_become_pixels(one_object: Callable[..., dict[str, Any]]) -> None:
    shares = [side / (32, 24)[index % 2] for index, side in enumerate([4, 6, 14, 6, 14, 16, 4, 16])]
    given = one_object(segmentation=[shares], bbox=[4 / 32, 6 / 24, 10 / 32, 10 / 24], area=0.13)
    form = FileForm({}, "x, y, width, height as shares of the image", mask_unit=1.0)
    read = read_object(given, IMAGE_HW, form)
    assert read.annotation is not None and read.annotation["area"] == 100
    np.testing.assert_array_equal(decode_mask(read.annotation["segmentation"], IMAGE_HW), MASK)


@pytest.mark.parametrize("height", range(1, 24))
def test_compressed_run_lengths_may_begin_with_any_letter(height: int) -> None:
    """Among them are [ and b, with which lists and Python's bytes begin, too."""
    for first in range(0, 24 * 32 - height, 7):
        mask = np.zeros(IMAGE_HW, np.uint8)
        mask.T.flat[first : first + height] = 1
        text = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        read = read_segmentation({"size": list(IMAGE_HW), "counts": text}, IMAGE_HW)
        assert read.repairs == [] and read.segmentation == {"size": list(IMAGE_HW), "counts": text}


def test_boxes_of_run_lengths_equal_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for density in (0.002, 0.02, 0.5, 0.999):
        for _ in range(50):
            mask = (rng.random(IMAGE_HW) < density).astype(np.uint8)
            mask[rng.integers(24), rng.integers(32)] = 1
            code = coco_mask.encode(np.asfortranarray(mask))
            found = mask_bbox({"size": list(IMAGE_HW), "counts": code["counts"].decode()}, IMAGE_HW)
            assert found == tuple(coco_mask.toBbox(code).tolist())


def test_bitmaps_and_geojson_are_read(one_object: Callable[..., dict[str, Any]]) -> None:
    ring = [[4, 6], [14, 6], [14, 16], [4, 16], [4, 6]]
    hole = [[7, 9], [11, 9], [11, 13], [7, 13], [7, 9]]
    with_hole = MASK.copy()
    with_hole[9:13, 7:11] = 0
    for segmentation, expected in (
        (MASK.tolist(), MASK),
        ((255 * MASK).tolist(), MASK),
        ({"type": "Polygon", "coordinates": [ring]}, MASK),
        ({"type": "Polygon", "coordinates": [ring, hole]}, with_hole),
        ({"type": "MultiPolygon", "coordinates": [[ring, hole]]}, with_hole),
        ({"size": [24, 32], "counts": str(COLUMN_MAJOR)}, MASK),
    ):
        read = read_object(one_object(segmentation=segmentation), IMAGE_HW, FORM)
        assert read.annotation is not None and len(read.repairs) == 1
        np.testing.assert_array_equal(decode_mask(read.annotation["segmentation"], IMAGE_HW), expected)
    assert find_file_form([({"segmentation": MASK.tolist()}, IMAGE_HW)] * 3, {})[0].mask_unit == 0


def test_keypoints_in_shares_of_the_image(one_object: Callable[..., dict[str, Any]]) -> None:
    given = one_object(keypoints=[0.25, 0.5, 2, 0, 0, 0])
    form, _ = find_file_form([(given, IMAGE_HW)], {7: 2})
    read = read_object(given, IMAGE_HW, form)
    assert read.annotation is not None and read.annotation["keypoints"] == [8, 12, 2, 0, 0, 0]
    ambiguous = read_object(one_object(keypoints=[5, 7, 2, 6, 8, 1]), IMAGE_HW, FileForm({7: 3}))
    assert ambiguous.annotation is not None and "keypoints" not in ambiguous.annotation  # three pairs, or two triples


ODD: list[Any] = [
    None,
    "",
    "text",
    "7",
    -1,
    0,
    7,
    1e300,
    NAN,
    True,
    [],
    [[]],
    {},
    [None],
    [[1, 2], None],
    {"a": 1},
    [1] * 9,
]


def test_nothing_that_json_can_hold_ends_with_an_exception(one_object: Callable[..., dict[str, Any]]) -> None:
    fields = ("bbox", "segmentation", "area", "iscrowd", "keypoints")
    num_kept = 0
    for (first, second), (a, b) in itertools.product(itertools.combinations(fields, 2), itertools.product(ODD, ODD)):
        read = read_object(one_object(**{first: a, second: b}), IMAGE_HW, FORM)
        assert (read.annotation is None) == (read.left_out is not None)
        if read.annotation is not None:
            num_kept += 1
            assert find_fault(read.annotation, IMAGE_HW, 2) is None
    assert num_kept > 1500
