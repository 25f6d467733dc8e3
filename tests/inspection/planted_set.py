"""A generated data set in which fifteen faults can be planted, five of them between the splits."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TestConfig
from mrcnn_jax.data.coco import coco_source
from mrcnn_jax.data.prepare import prepare

IMAGE_HW = (96, 128)
NUM_IMAGES = 24
CANVASES = ((96, 128),)
CONFIG = Config(
    model=ModelConfig(anchor_sizes=(12.0, 18.0, 26.0, 38.0, 54.0)),
    data=DataConfig(canvases=CANVASES, short_sides=(96,), max_side=128, max_objects=8),
    test=TestConfig(canvases=CANVASES, short_side=96, max_side=128),
)
"""Settings that suit the images without faults."""

CLASSES = ("bolt", "nut", "gear")
FAULTS = {
    "blank-image": ("train", 0),
    "repeated-object": ("train", 1),
    "contradicting-object": ("train", 2),
    "box-mask": ("train", 3),
    "too-small": ("train", 4),
    "no-anchor": ("train", 5),
    "too-many-objects": ("train", 6),
    "copied-image": ("train", 10),
    "rotated-image": ("train", 8),
    "crowds": ("train", 9),
    "split-copies": ("val", 0),
    "split-similar": ("val", 1),
    "split-depth": ("val", 2),
    "split-class-names": ("val", -1),
    "split-class-missing": ("val", -1),
}
"""Checks that have to find something, with the split and the image; -1 for the whole split."""


def texture(seed: int, image_hw: tuple[int, int] = IMAGE_HW) -> np.ndarray:
    """An image of soft spots and fine grain, uint8 RGB; images of different seeds are not similar."""
    rng = np.random.default_rng(seed)
    soft = cv2.resize(rng.uniform(60, 200, (12, 16, 3)), image_hw[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(soft + rng.normal(0, 6, (*image_hw, 3)), 0, 255).astype(np.uint8)


def hexagon(x: float, y: float, radius: float) -> list[float]:
    """A polygon around (x, y) that fills three quarters of its box."""
    angles = np.arange(6) * np.pi / 3
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).ravel().tolist()


class PlantedSplit:
    """One split on disk: images, and the rows of its annotation file."""

    def __init__(self, root: Path, name: str, seed: int) -> None:
        self.root, self.name, self.seed = root, name, seed
        self.folder = root / f"{name}_images"
        self.folder.mkdir(parents=True)
        self.names = list(CLASSES)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        for index in range(NUM_IMAGES):
            self.write_image(index, texture(seed + index))
            self.images.append({"id": index, "file_name": f"{index:02d}.png", "height": 96, "width": 128})
            for place in range(3):
                radius = (9.0, 13.0, 19.0)[(index + place) % 3]
                self.add(index, hexagon(24 + 40 * place, 30 + (index * 7) % 36, radius), place)

    def write_image(self, index: int, pixels: np.ndarray, suffix: str = "png") -> None:
        path = self.folder / f"{index:02d}.{suffix}"
        if pixels.dtype == np.uint8:
            Image.fromarray(pixels).save(path)
        else:
            assert cv2.imwrite(str(path), pixels)

    def rename(self, index: int, suffix: str) -> None:
        self.images[index]["file_name"] = f"{index:02d}.{suffix}"

    def add(self, image: int, polygon: list[float], label: int, **changes: Any) -> dict[str, Any]:
        points = np.reshape(np.asarray(polygon, np.float64), (-1, 2))
        (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        row = {
            "id": len(self.annotations) + 1,
            "image_id": image,
            "category_id": label + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": [polygon],
            "iscrowd": 0,
        }
        self.annotations.append(row | changes)
        return self.annotations[-1]

    def of_image(self, image: int) -> list[dict[str, Any]]:
        return [row for row in self.annotations if row["image_id"] == image]

    def prepare(self) -> None:
        categories = [{"id": number, "name": name} for number, name in enumerate(self.names, start=1)]
        content = {"images": self.images, "annotations": self.annotations, "categories": categories}
        path = self.root / f"{self.name}.json"
        path.write_text(json.dumps(content))
        prepare(coco_source(self.folder, path), self.root / "data", self.name)


def make_splits(root: Path) -> tuple[PlantedSplit, PlantedSplit]:
    """The splits train and val without faults, not yet prepared."""
    return PlantedSplit(root, "train", seed=1000), PlantedSplit(root, "val", seed=2000)


def plant(train: PlantedSplit, val: PlantedSplit) -> None:
    """Plants all faults of `FAULTS`."""
    train.write_image(0, np.full((*IMAGE_HW, 3), 90, np.uint8))
    train.add(1, hexagon(24, 37, 13.0), 0)  # the first object of image 1, whose radius and height these are
    train.add(2, hexagon(24, 44, 19.0), 1)
    box = train.of_image(3)[0]["bbox"]
    train.of_image(3)[0]["bbox"] = [box[0], box[1], box[2], box[3] * 0.62]
    train.add(4, [60, 84, 63, 84, 63, 87, 61, 88], 0)
    train.add(5, [4, 82, 124, 82, 124, 87, 5, 88], 1)
    for place in range(8):
        train.add(6, hexagon(10 + 15 * place, 88, 6.5), 2)
    Image.fromarray(texture(train.seed + 10)).save(train.folder / "07.bmp")
    train.rename(7, "bmp")
    turned = Image.fromarray(np.rot90(texture(train.seed + 8)).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    turned.save(train.folder / "08.jpg", exif=exif, quality=95)
    train.rename(8, "jpg")
    train.add(9, [4, 80, 124, 80, 120, 94, 5, 94], 0, iscrowd=1)

    val.write_image(0, texture(train.seed + 15))
    half = cv2.resize(texture(train.seed + 16)[:, ::-1], (64, 48), interpolation=cv2.INTER_AREA)
    darker = cv2.resize((half * 0.7).astype(np.uint8), (128, 96))
    Image.fromarray(darker).save(val.folder / "01.jpg", quality=60)
    val.rename(1, "jpg")
    val.write_image(2, texture(val.seed + 2).astype(np.uint16)[:, :, 0] * 256)
    val.names[1] = "nuts"
    for row in val.annotations:
        row["category_id"] = 1 if row["category_id"] == 3 else row["category_id"]
