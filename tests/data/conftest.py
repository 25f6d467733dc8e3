"""A tiny COCO data set on disk, and ways to change it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.dataset import Dataset, open_dataset
from mrcnn_jax.data.prepare import prepare

SQUARE = [[4.0, 6.0, 14.0, 6.0, 14.0, 16.0, 4.0, 16.0]]


@dataclass
class CocoFolder:
    """A data set on disk: change `content`, then call `write` or `prepare`."""

    root: Path
    content: dict[str, Any]

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def annotations(self) -> Path:
        return self.root / "small.json"

    def add_image(self, image_id: int, image_hw: tuple[int, int], suffix: str = "png") -> None:
        """An image of noise and its entry."""
        noise = np.random.default_rng(image_id).integers(0, 256, (*image_hw, 3), np.uint8)
        name = f"{image_id}.{suffix}"
        assert cv2.imwrite(str(self.images / name), noise)
        self.content["images"].append(
            {"id": image_id, "file_name": name, "height": image_hw[0], "width": image_hw[1], "license": 3}
        )

    def add_object(self, annotation_id: int, image_id: int, **changes: Any) -> None:
        """A square of 10 x 10 pixels at (4, 6), of category 7, unless changed; None removes a field."""
        annotation = {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": 7,
            "bbox": [4.0, 6.0, 10.0, 10.0],
            "area": 100.0,
            "iscrowd": 0,
            "segmentation": SQUARE,
        }
        annotation |= changes
        kept = {key: value for key, value in annotation.items() if value is not None}
        self.content["annotations"].append(kept)

    def write(self) -> None:
        self.annotations.write_text(json.dumps(self.content))

    def prepare(self, split: str = "train", **options: Any) -> Dataset:
        self.write()
        prepare(coco_source(self.images, self.annotations), self.root / "prepared", split, **options)
        return open_dataset(f"{self.root / 'prepared'}:{split}")


@pytest.fixture
def empty_coco(tmp_path: Path) -> CocoFolder:
    """Two categories with a gap between their ids, out of order; no images."""
    (tmp_path / "images").mkdir()
    categories = [{"id": 90, "name": "ant"}, {"id": 7, "name": "zebra", "supercategory": "animal"}]
    return CocoFolder(tmp_path, {"images": [], "annotations": [], "categories": categories})


@pytest.fixture
def small_coco(empty_coco: CocoFolder) -> CocoFolder:
    """Landscape, portrait and an image without objects; a polygon, both kinds of RLE and a crowd."""
    for image_id, image_hw, suffix in ((42, (24, 32), "png"), (5, (40, 30), "jpg"), (6, (24, 32), "png")):
        empty_coco.add_image(image_id, image_hw, suffix)
    empty_coco.add_object(1, 42, bbox=[4.25, 6.0, 10.0, 10.1])
    code = {"size": [24, 32], "counts": [700, 12, 56]}
    empty_coco.add_object(2, 42, category_id=90, bbox=[29.0, 4.0, 1.0, 12.0], area=12, segmentation=code)
    empty_coco.add_object(3, 5, segmentation={"size": [40, 30], "counts": "V5:n000000000000000000jc0"})
    whole = {"size": [40, 30], "counts": [0, 1200]}
    empty_coco.add_object(4, 5, iscrowd=1, bbox=[0, 0, 30, 40], segmentation=whole)
    return empty_coco


@pytest.fixture
def one_object() -> Callable[..., dict[str, Any]]:
    """A valid annotation of an image of 24 x 32 pixels, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        return {"id": 1, "category_id": 7, "bbox": [4.0, 6.0, 10.0, 10.0], "segmentation": SQUARE} | changes

    return make
