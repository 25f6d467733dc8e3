"""Tiles of annotated images: pixels and masks are kept, small remains become regions, and everything is counted."""

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest

from mrcnn_jax.data.bitmaps import decode_mask, encode_mask
from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.data.source import SourceImage
from mrcnn_jax.data.tiled_images import CUT, LEFT_OUT, REGION, TileCutter, Tiling
from mrcnn_jax.errors import ConfigError

IMAGE_HW = (100, 180)  # tiles of columns 0..100 and 80..180
PIXELS = np.random.default_rng(0).integers(0, 256, (*IMAGE_HW, 3), np.uint8)


def box_polygon(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def annotation(number: int, x0: float, y0: float, x1: float, y1: float, **changes: Any) -> dict[str, Any]:
    """A filled box as a polygon."""
    area = (x1 - x0) * (y1 - y0)
    fields = {"id": number, "category_id": 3, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": area, "iscrowd": 0}
    changed = fields | {"segmentation": box_polygon(x0, y0, x1, y1)} | changes
    return {key: value for key, value in changed.items() if value is not None}


def image_of(*annotations: dict[str, Any], image_hw: tuple[int, int] = IMAGE_HW) -> SourceImage:
    pixels = PIXELS[: image_hw[0], : image_hw[1]]
    data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return SourceImage(42, "a.png", data, image_hw, annotations)


def cut(image: SourceImage, **options: Any) -> tuple[list[SourceImage], dict[str, int], list[str]]:
    findings, cutter = Findings(), TileCutter(Tiling(100, 20, **options), "auto")
    tiles = list(cutter.cut(image, findings))
    return tiles, {reason: len(which) for reason, which in findings.repaired.items()}, cutter.notes()


def test_pixels_and_names_of_tiles() -> None:
    tiles, counts, notes = cut(image_of())
    assert [tile.file_name for tile in tiles] == ["a.png[0:100,0:100].png", "a.png[0:100,80:180].png"]
    assert [tile.image_id for tile in tiles] == [1, 2] and [tile.image_hw for tile in tiles] == [(100, 100)] * 2
    for tile, x0 in zip(tiles, (0, 80), strict=True):
        pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(tile.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert (pixels == PIXELS[:, x0 : x0 + 100]).all()
    assert counts == {} and notes == ["1 images are cut into 2 tiles of 100 pixels, overlap 20."]


def test_objects_inside_a_tile_are_moved_exactly() -> None:
    polygon = annotation(1, 120.25, 10.5, 150.75, 30.5)
    code = annotation(2, 85, 40, 95, 60, segmentation=None)
    mask = np.zeros(IMAGE_HW, np.uint8)
    mask[40:60, 85:95] = 1
    code["segmentation"] = encode_mask(mask)
    tiles, counts, _ = cut(image_of(polygon, code))
    (first,), (second, third) = tiles[0].annotations, tiles[1].annotations
    assert second == polygon | {
        "id": 2, "bbox": [40.25, 10.5, 30.5, 20.0], "segmentation": box_polygon(40.25, 10.5, 70.75, 30.5),
    }  # fmt: skip
    assert first["bbox"] == [85, 40, 10, 20] and third["bbox"] == [5, 40, 10, 20]
    assert [first["id"], third["id"]] == [1, 3] and first["area"] == third["area"] == 200
    assert (decode_mask(first["segmentation"], (100, 100)) == mask[:, :100]).all()
    assert (decode_mask(third["segmentation"], (100, 100)) == mask[:, 80:]).all()
    assert counts == {}


def test_cut_objects_small_remains_and_specks() -> None:
    half = annotation(1, 60, 10, 100, 20)  # whole on the left, a half on the right
    remains = annotation(2, 92, 30, 160, 40)  # an eighth on the left, whole on the right
    speck = annotation(3, 99, 50, 130, 53)  # three pixels on the left
    large = annotation(4, 70, 60, 180, 90)  # 900 pixels on the left: more than a hundredth of the tile
    tiles, counts, _ = cut(image_of(half, remains, speck, large))
    assert counts == {CUT: 3, REGION: 1, LEFT_OUT: 1}
    left, right = tiles[0].annotations, tiles[1].annotations
    assert [(each["bbox"], each["area"], each["iscrowd"]) for each in left] == [
        ([60, 10, 40, 10], 400, 0),
        ([92, 30, 8, 10], 80, 1),
        ([70, 60, 30, 30], 900, 0),
    ]
    assert [(each["bbox"], each["area"], each["iscrowd"]) for each in right] == [
        ([0, 10, 20, 10], 200, 0),
        ([12, 30, 68, 10], 680, 0),
        ([19, 50, 31, 3], 93, 0),
        ([0, 60, 100, 30], 3000, 0),
    ]
    for tile in tiles:
        for each in tile.annotations:
            x, y, width, height = (int(side) for side in each["bbox"])
            expected = np.zeros((100, 100), bool)
            expected[y : y + height, x : x + width] = True
            assert (decode_mask(each["segmentation"], (100, 100)) == expected).all()


def test_tiles_together_show_every_pixel_of_every_object() -> None:
    rng = np.random.default_rng(1)
    masks = []
    for _ in range(6):
        center, radii = rng.uniform(0, IMAGE_HW), rng.uniform(8, 60, 2)
        y, x = np.ogrid[: IMAGE_HW[0], : IMAGE_HW[1]]
        masks.append(((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 < 1)
    objects = []
    for number, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        given = annotation(number, *map(float, box), category_id=number, area=float(mask.sum()))
        objects.append(given | {"segmentation": encode_mask(mask)})
    image = dataclasses.replace(image_of(*objects), void=encode_mask(masks[0]))
    findings, cutter = Findings(), TileCutter(Tiling(50, 10), "auto")
    shown, void = np.zeros((6, *IMAGE_HW), bool), np.zeros(IMAGE_HW, bool)
    for tile in cutter.cut(image, findings):
        place = tuple(slice(*map(int, part.split(":"))) for part in tile.file_name[6:-5].split(","))
        for each in tile.annotations:
            shown[each["category_id"]][place] |= decode_mask(each["segmentation"], tile.image_hw).astype(bool)
        if tile.void:
            void[place] |= decode_mask(tile.void, tile.image_hw).astype(bool)
    specks = 3 * len(findings.repaired.get(LEFT_OUT, []))
    assert all((mask >= each).all() for mask, each in zip(masks, shown, strict=True))
    assert np.sum(masks) - shown.sum() <= specks and (void == masks[0]).all()


def test_boxes_crowds_and_keypoints() -> None:
    box = annotation(1, 60, 10, 120, 20, segmentation=None)
    corner = annotation(2, 96, 30, 180, 40, segmentation=None)
    crowd = annotation(3, 98, 50, 150, 60, iscrowd=1)
    points = annotation(4, 70, 70, 110, 80, keypoints=[75, 72, 2, 99, 75, 1, 100, 75, 2, 0, 0, 0], num_keypoints=3)
    tiles, counts, _ = cut(image_of(box, corner, crowd, points))
    left, right = tiles[0].annotations, tiles[1].annotations
    assert counts == {CUT: 4, REGION: 1}
    assert left[0]["bbox"] == [60, 10, 40, 10] and "segmentation" not in left[0] and left[0]["area"] == 400
    assert left[1]["iscrowd"] == 1 and left[1]["segmentation"] == box_polygon(96, 30, 100, 40)
    assert left[2]["iscrowd"] == 1 and left[2]["bbox"] == [98, 50, 2, 10]
    assert left[3]["keypoints"] == [75, 72, 2, 99, 75, 1, 0, 0, 0, 0, 0, 0] and left[3]["num_keypoints"] == 2
    assert right[3]["keypoints"] == [0, 0, 0, 19, 75, 1, 20, 75, 2, 0, 0, 0]


def test_images_no_larger_than_a_tile_stay_as_they_are() -> None:
    image = image_of(annotation(9, 1, 1, 5, 5), image_hw=(100, 90))
    (tile,), counts, notes = cut(image)
    assert (
        tile.data == image.data
        and tile.file_name == "a.png"
        and tile.annotations == (image.annotations[0] | {"id": 1},)
    )
    assert counts == {} and notes[0].startswith("0 images are cut into 0 tiles")


def test_tiles_without_objects_can_be_left_out() -> None:
    tiles, _, notes = cut(image_of(annotation(1, 98, 10, 150, 20)), annotated_only=True)
    assert [tile.file_name for tile in tiles] == ["a.png[0:100,80:180].png"]
    assert (tiles[0].image_id, notes[1]) == (1, "1 tiles without objects are left out.")


def test_a_prepared_split_has_the_tiles(small_coco: Any) -> None:
    dataset = small_coco.prepare(tiling=Tiling(24, 8))
    assert dataset.sizes.tolist() == [[24, 24], [24, 24], *[[24, 24]] * 4, [24, 24], [24, 24]]
    assert dataset.image_ids.tolist() == list(range(1, 9))
    assert len(dataset[0].objects) == 1 and dataset[1].objects[-1].bbox == (21.0, 4.0, 1.0, 12.0)
    source = coco_source(small_coco.images, small_coco.annotations)
    again = prepare(source, small_coco.root / "prepared", "train", tiling=Tiling(24, 8))
    assert again.reused and again.num_images == 8
    with pytest.raises(ConfigError, match="made from something else"):
        prepare(source, small_coco.root / "prepared", "train", tiling=Tiling(24, 4))
    with pytest.raises(ConfigError, match="overlap: expected 0 to 12"):
        Tiling(24, 13)
    assert len(open_dataset(f"{small_coco.root / 'prepared'}:train")) == 8
