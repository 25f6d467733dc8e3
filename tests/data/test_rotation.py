"""Images with a camera's rotation: whatever frame a file is annotated in, masks lie on their objects, upright."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_jax.data.bitmaps import decode_mask, encode_mask
from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.images import turn_as_stored, upright_hw
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.data.rotation import Rotation, turn_annotation
from mrcnn_jax.inference.image_files import read_image

ORIENTATIONS = tuple(range(1, 9))
UPRIGHT_HW = (40, 64)
BOX = (8, 4, 30, 12)  # x, y, width, height: in no frame of an image is its place symmetric


def write_images(folder: Path, upright_hw: tuple[int, int] = UPRIGHT_HW) -> list[tuple[int, int]]:
    """One PNG for each orientation, all with the same upright pixels: a red box on grey. Returns the stored sizes."""
    folder.mkdir()
    upright = np.full((*upright_hw, 3), 120, np.uint8)
    x, y, width, height = BOX
    upright[y : y + height, x : x + width] = (230, 40, 40)
    stored_hw = []
    for orientation in ORIENTATIONS:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = turn_as_stored(upright, orientation)
        stored_hw.append(stored.shape[:2])
        Image.fromarray(stored).save(folder / f"{orientation}.png", exif=exif)
    return stored_hw


def box_in_frame(orientation: int, upright_hw: tuple[int, int], is_stored: bool) -> list[int]:
    mask = np.zeros(upright_hw, np.uint8)
    x, y, width, height = BOX
    mask[y : y + height, x : x + width] = 1
    rows, columns = np.nonzero(turn_as_stored(mask, orientation) if is_stored else mask)
    return [int(v) for v in (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)]


def write_annotations(path: Path, stored_hw: list[tuple[int, int]], upright_hw: Any, frame: str, sizes: str) -> None:
    images, annotations = [], []
    for orientation, hw in zip(ORIENTATIONS, stored_hw, strict=True):
        entry: dict[str, Any] = {"id": orientation, "file_name": f"{orientation}.png"}
        given = {"stored": hw, "upright": upright_hw, "none": (None, None)}[sizes]
        images.append(entry | {"height": given[0], "width": given[1]})
        x, y, w, h = box_in_frame(orientation, upright_hw, frame == "stored")
        common = {"image_id": orientation, "category_id": 1, "iscrowd": 0, "bbox": [x, y, w, h]}
        polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotations.append(common | {"id": 2 * orientation, "segmentation": polygon})
        mask = np.zeros(hw if frame == "stored" else upright_hw, np.uint8)
        mask[y : y + h, x : x + w] = 1
        annotations.append(common | {"id": 2 * orientation + 1, "segmentation": encode_mask(mask)})
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}))


@pytest.mark.parametrize("upright_hw", [UPRIGHT_HW, (50, 50)], ids=["oblong", "square"])
@pytest.mark.parametrize(
    ("frame", "sizes", "rotation"),
    [
        ("upright", "upright", "auto"),
        ("upright", "none", "auto"),
        ("upright", "stored", "upright"),
        ("stored", "stored", "auto"),
        ("stored", "stored", "stored"),
        ("stored", "none", "stored"),
        ("upright", "none", "upright"),
    ],
)
def test_masks_lie_on_their_objects(
    tmp_path: Path, upright_hw: tuple[int, int], frame: str, sizes: str, rotation: Rotation
) -> None:
    stored_hw = write_images(tmp_path / "images", upright_hw)
    write_annotations(tmp_path / "a.json", stored_hw, upright_hw, frame, sizes)
    is_undecidable = upright_hw == (50, 50) and rotation == "auto"
    if is_undecidable and frame == "stored":
        rotation = "stored"
    prepared = prepare(coco_source(tmp_path / "images", tmp_path / "a.json", rotation=rotation), tmp_path, "train")
    if is_undecidable and frame == "upright":
        assert any("the file does not tell, so that upright is assumed" in line for line in prepared.findings)
    dataset = open_dataset(f"{tmp_path}:train")
    assert len(dataset) == 8
    for record in (dataset[index] for index in range(8)):
        assert record.image.shape[:2] == upright_hw and len(record.objects) == 2
        np.testing.assert_array_equal(record.image, read_image(tmp_path / "images" / record.file_name))
        red = record.image[..., 0] > 200
        for item in record.objects:
            assert item.bbox == BOX and item.segmentation is not None
            np.testing.assert_array_equal(decode_mask(item.segmentation, upright_hw).astype(bool), red)


def test_objects_that_fit_only_the_upright_image_prove_that_sizes_mislead(tmp_path: Path) -> None:
    """Sizes as stored, objects upright, as some tools write. One object of one image proves it for all."""
    stored_hw = write_images(tmp_path / "images")
    write_annotations(tmp_path / "a.json", stored_hw, UPRIGHT_HW, "upright", "stored")
    content = json.loads((tmp_path / "a.json").read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    content["annotations"][-1]["bbox"] = [50, 4, 14, 30]  # beyond the stored width of 40
    (tmp_path / "a.json").write_text(json.dumps(content))
    prepare(coco_source(tmp_path / "images", tmp_path / "a.json"), tmp_path, "train")
    dataset = open_dataset(f"{tmp_path}:train")
    assert all(dataset[index].objects[0].bbox == BOX for index in range(8))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_keypoints_turn_with_their_pixel(orientation: int) -> None:
    upright = np.zeros(UPRIGHT_HW, np.uint8)
    upright[7, 50] = 1
    stored = turn_as_stored(upright, orientation)
    (y,), (x,) = np.nonzero(stored)
    annotation = {"bbox": [int(x), int(y), 1, 1], "keypoints": [int(x), int(y), 2, 0, 0, 0]}
    turned = turn_annotation(annotation, stored.shape, orientation)
    assert turned["keypoints"] == [50, 7, 2, 0, 0, 0] and turned["bbox"] == [50, 7, 1, 1]
    assert upright_hw(stored.shape, orientation) == UPRIGHT_HW
