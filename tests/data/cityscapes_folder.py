"""A small data set in Cityscapes' official layout, whose labels the official code draws."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

IMAGE_HW = (60, 90)
NAMES = ("bonn/bonn_000000_000019", "bonn/bonn_000001_000019", "aachen/aachen_000003_000019")
"""As they are written; aachen comes first."""


def box(label: str, y: int, x: int, height: int, width: int, **more: Any) -> dict[str, Any]:
    """An object; the outline belongs to it, so that it has height x width pixels."""
    y1, x1 = y + height - 1, x + width - 1
    return {"label": label, "polygon": [[x, y], [x1, y], [x1, y1], [x, y1]], **more}


SCENE = [
    box("sky", 0, 0, 60, 90),
    box("car", 10, 10, 20, 30),
    box("person", 5, 35, 30, 10),  # hides a part of the car
    box("car", 40, 0, 10, 10, deleted=1),
    box("car", 40, 20, 10, 10),
    box("cargroup", 40, 40, 10, 20),
    box("cargroup", 40, 70, 10, 10),
    box("license plate", 12, 12, 4, 4),  # is not drawn
    box("traffic sign", 20, 10, 5, 5),
]
EXPECTED = [(26, 1, 300), (24, 0, 300), (26, 0, 600 - 100 - 25), (26, 0, 100)]
"""(label id, crowd, area) of what is left of it, in the order of the annotations."""


@dataclass
class Folder:
    """A data set in the official layout."""

    root: Path

    def path(self, kind: str, name: str, end: str, split: str = "train") -> Path:
        path = self.root / kind / split / (name + end)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, name: str, objects: Any, *, split: str = "train", form: str = "polygons") -> None:
        """An image of noise and its label in one of the two forms, the image as the official code draws it."""
        noise = np.random.default_rng(len(name)).integers(0, 256, (*IMAGE_HW, 3), np.uint8)
        assert cv2.imwrite(str(self.path("leftImg8bit", name, "_leftImg8bit.png", split)), noise)
        text = json.dumps({"imgHeight": IMAGE_HW[0], "imgWidth": IMAGE_HW[1], "objects": objects})
        if form == "polygons":
            self.polygons(name, split).write_text(text)
        else:
            annotation = Annotation()
            annotation.fromJsonText(text)
            ids = np.asarray(createInstanceImage(annotation, "ids"))
            assert cv2.imwrite(str(self.ids(name, split)), ids.astype(np.uint16))

    def polygons(self, name: str, split: str = "train") -> Path:
        return self.path("gtFine", name, "_gtFine_polygons.json", split)

    def ids(self, name: str, split: str = "train") -> Path:
        return self.path("gtFine", name, "_gtFine_instanceIds.png", split)
