"""Copy-paste: pixels, masks, boxes and areas of the pasted image agree, against full-size masks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mrcnn_jax.config import DataConfig
from mrcnn_jax.data.bitmaps import decode_mask, encode_mask
from mrcnn_jax.data.copy_paste import paste_from, paste_objects
from mrcnn_jax.data.dataset import ObjectRecord, Record
from mrcnn_jax.errors import DataError

BASE = 50
"""Brightness of the image below; the other one is brighter, and different everywhere."""


def make_object(object_id: int, mask: np.ndarray, **changes: Any) -> ObjectRecord:
    """An object with that mask; box and area are nonsense, so that kept ones can be told from recomputed ones."""
    fields = {"label": object_id, "is_crowd": False, "segmentation": encode_mask(mask)} | changes
    return ObjectRecord(object_id, bbox=(0.0, 0.0, 1.0, 1.0), area=-1.0, **fields)


def random_record(seed: int, image_hw: tuple[int, int], first_id: int) -> Record:
    """Five ellipses that do not overlap: later ones lie below."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: image_hw[0], : image_hw[1]]
    free, objects = np.ones(image_hw, bool), []
    for index in range(5):
        (cy, cx), (ry, rx) = rng.uniform(0, image_hw), rng.uniform(2, 15, 2)
        mask = (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1) & free
        free &= ~mask
        if mask.any():
            objects.append(make_object(first_id + index, mask))
    image = np.full((*image_hw, 3), BASE, np.uint8)
    if first_id > 10:
        image = np.broadcast_to(100 + (y % 5 * 30 + x % 6 * 5)[..., None], image.shape).astype(np.uint8)
    return Record(seed, "a.png", image, tuple(objects))


@pytest.mark.parametrize("source_hw", [(40, 60), (60, 40), (30, 50), (70, 80)])
def test_pixels_and_objects_agree_with_full_masks(source_hw: tuple[int, int]) -> None:
    num_dropped = num_cut = num_untouched = num_pasted = 0
    for seed in range(30):
        record, source = random_record(seed, (40, 60), 1), random_record(seed + 100, source_hw, 11)
        result = paste_objects(record, source, np.random.default_rng(seed))
        covered = result.image[..., 0] != BASE
        assert result.image.shape == record.image.shape and (record.image == BASE).all()
        by_id = {item.id: item for item in result.objects}
        for item in record.objects:
            before = decode_mask(item.segmentation, (40, 60)) > 0
            after = before & ~covered
            if (before == after).all():
                assert by_id.pop(item.id) is item
                num_untouched += 1
            elif after.sum() < 10 or after.sum() < 0.1 * before.sum():
                assert item.id not in by_id
                num_dropped += 1
            else:
                check_object(by_id.pop(item.id), after)
                num_cut += 1
        pasted = [decode_mask(item.segmentation, (40, 60)) > 0 for item in by_id.values()]
        np.testing.assert_array_equal(np.any(pasted, axis=0) if pasted else np.zeros((40, 60), bool), covered)
        for item, mask in zip(by_id.values(), pasted, strict=True):
            check_object(item, mask)
            check_place(result, source, item)
            num_pasted += 1
    assert min(num_dropped, num_cut, num_untouched, num_pasted) > 2


def check_object(item: ObjectRecord, mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_mask(item.segmentation, mask.shape), mask)
    rows, columns = np.nonzero(mask)
    assert item.bbox == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert item.area == mask.sum() >= 10 and item.label == item.id


def check_place(result: Record, source: Record, item: ObjectRecord) -> None:
    """The source's pixels under the object's mask, and the mask, moved by one offset within the room that there is."""
    (original,) = (other for other in source.objects if other.id == item.id)
    source_hw, image_hw = source.image.shape[:2], result.image.shape[:2]
    whole, part = decode_mask(original.segmentation, source_hw), decode_mask(item.segmentation, image_hw)
    rows, columns = np.nonzero(part)
    matches = []
    for top in range(min(image_hw[0] - source_hw[0], 0), max(image_hw[0] - source_hw[0], 0) + 1):
        for left in range(min(image_hw[1] - source_hw[1], 0), max(image_hw[1] - source_hw[1], 0) + 1):
            y, x = rows - top, columns - left
            inside = (y >= 0) & (y < source_hw[0]) & (x >= 0) & (x < source_hw[1])
            if inside.all() and whole[y, x].all() and (source.image[y, x] == result.image[rows, columns]).all():
                matches.append((top, left))
    assert matches and part.sum() >= 0.1 * whole.sum()


def test_keypoints_move_and_hide() -> None:
    below, above = np.zeros((20, 20), bool), np.zeros((10, 10), bool)
    below[2:18, 2:18], above[:] = True, True
    record = Record(
        1,
        "a",
        np.full((20, 20, 3), BASE, np.uint8),
        (make_object(1, below, keypoints=(10.0, 10.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0)),),
    )
    points = (1.0, 3.0, 2.0, 9.0, 9.0, 1.0, 0.0, 0.0, 0.0)
    source = Record(2, "b", np.full((10, 10, 3), 200, np.uint8), (make_object(11, above, keypoints=points),))
    hidden = set()
    for seed in range(20):
        result = paste_objects(record, source, np.random.default_rng(seed))
        if len(result.objects) == 1:
            assert result is record
            continue
        lower, upper = result.objects
        x, y, _, _ = upper.bbox
        assert upper.keypoints == (1 + x, 3 + y, 2, 9 + x, 9 + y, 1, 0, 0, 0)
        is_hidden = [result.image[row, column, 0] == 200 for row, column in ((10, 10), (2, 2))]
        assert lower.keypoints == (10, 10, 2 - is_hidden[0], 2, 2, 2 - is_hidden[1], 0, 0, 0)
        hidden.add(tuple(is_hidden))
    assert len(hidden) > 1
    large = Record(2, "b", np.full((60, 20, 3), 200, np.uint8), (make_object(11, np.ones((60, 20), bool)),))
    large = replace(large, objects=(replace(large.objects[0], keypoints=(1.0, 0.0, 2.0, 1.0, 59.0, 2.0)),))
    for seed in range(5):
        pasted = paste_objects(record, large, np.random.default_rng(seed)).objects[-1]
        assert pasted.id == 1 or pasted.keypoints == (0.0,) * 6  # both ends lie outside, or the offset is extreme


def test_crowds_stay_below_and_are_not_pasted() -> None:
    everywhere = np.ones((20, 20), bool)
    image = np.full((20, 20, 3), 200, np.uint8)
    crowd = make_object(5, everywhere, is_crowd=True, segmentation=[])
    record, source = (Record(i, "a", image, (crowd, make_object(i, everywhere))) for i in (1, 11))
    outcomes = [paste_objects(record, source, np.random.default_rng(seed)).objects for seed in range(10)]
    assert {tuple(item.id for item in objects) for objects in outcomes} == {(5, 1), (5, 11)}
    assert all(objects[0] is crowd for objects in outcomes)


def test_probability_source_and_objects_come_from_the_generator() -> None:
    records = [random_record(seed, (40, 60), 20 * seed + 1) for seed in range(6)]
    record = records[0]

    def paste(seed: int, probability: float) -> Record:
        return paste_from(records, record, probability, np.random.default_rng(seed))

    assert all(paste(seed, 0.0) is record for seed in range(10))
    always = [paste(seed, 1.0) for seed in range(60)]
    sources = {(item.id - 1) // 20 for result in always for item in result.objects}
    assert sources == set(range(6))
    assert 10 < sum(paste(seed, 0.5) is not record for seed in range(60)) < 45
    np.testing.assert_array_equal(paste(4, 1.0).image, always[4].image)
    assert paste(4, 1.0).objects == always[4].objects


def test_an_unreadable_source_changes_nothing() -> None:
    class Damaged:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Record:
            raise DataError("damaged")

    record = random_record(0, (40, 60), 1)
    assert paste_from(Damaged(), record, 1.0, np.random.default_rng(0)) is record  # type: ignore[arg-type]


@pytest.mark.parametrize("image_hw", [(1, 1), (5, 7)])
def test_masks_are_encoded_and_decoded(image_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for mask in [np.zeros(image_hw, bool), np.ones(image_hw, bool), *(rng.random((9, *image_hw)) < 0.5)]:
        code = encode_mask(mask)
        assert code["size"] == list(image_hw) and sum(code["counts"]) == mask.size
        np.testing.assert_array_equal(decode_mask(code, image_hw), mask)


def test_probability_is_checked() -> None:
    with pytest.raises(ValueError, match=r"data\.copy_paste_probability"):
        DataConfig(copy_paste_probability=1.5)
