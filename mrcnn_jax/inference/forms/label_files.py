"""One file for each image, as annotation tools and trainers read them: labelme, YOLO's segmentation, instance PNG."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mrcnn_jax.inference.forms.json_forms import Add
from mrcnn_jax.inference.forms.outlines import join_holes, join_parts
from mrcnn_jax.inference.forms.records import FormSettings, ImageRecord
from mrcnn_jax.inference.prediction_log import replacing

LABELME_VERSION = "5.5.0"
"""Version of labelme whose files these are."""

MAX_INSTANCES = 2**16 - 1
"""Most objects of an image that a PNG of 16 bits numbers."""


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


@contextmanager
def write_labelme(settings: FormSettings) -> Iterator[Add]:
    """Writes labelme/NAME.json: a polygon for each part of an object, and the object's number as group_id.

    labelme has no holes: a part's outline goes to each hole and back along the same line.
    """

    def add(record: ImageRecord) -> None:
        if record.error:
            return
        path = settings.output / "labelme" / f"{record.line['stem']}.json"
        shapes = [
            _labelme_shape(each.row, join_holes(polygon), number)
            for number, each in enumerate(record.confident, start=1)
            for polygon in each.polygons
        ]
        image_path = settings.image_paths[record.number - 1] if settings.image_paths else None
        height, width = record.image_hw
        content: dict[str, Any] = {
            "version": LABELME_VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": record.name if image_path is None else os.path.relpath(image_path, path.parent),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        _write(path, json.dumps(content, indent=2).encode() + b"\n")

    yield add


def _labelme_shape(row: dict[str, Any], ring: np.ndarray, number: int) -> dict[str, Any]:
    return {
        "label": row["category_name"],
        "points": ring.tolist(),
        "group_id": number,
        "description": f"score {row['score']:.4f}",
        "shape_type": "polygon",
        "flags": {},
        "mask": None,
    }


@contextmanager
def write_yolo(settings: FormSettings) -> Iterator[Add]:
    """Writes yolo/labels/NAME.txt, a line `class x y x y ...` for each object, and yolo/data.yaml with the class names.

    Classes count from 0 in the order of the categories; x and y are shares of the image's width and height. YOLO has
    one ring for each object: parts and holes are joined by lines that enclose nothing.
    """
    classes = {category.id: index for index, category in enumerate(settings.categories)}
    names = "".join(f"  {classes[each.id]}: {json.dumps(each.name)}\n" for each in settings.categories)
    _write(settings.output / "yolo" / "data.yaml", f"names:\n{names}".encode())

    def add(record: ImageRecord) -> None:
        if record.error:
            return
        scale = np.array(record.image_hw[::-1], np.float64)
        lines = [
            f"{classes[each.row['category_id']]} {' '.join(f'{value:.9g}' for value in ring.ravel())}\n"
            for each in record.confident
            if each.polygons
            for ring in [join_parts(each.polygons) / scale]
        ]
        _write(settings.output / "yolo" / "labels" / f"{record.line['stem']}.txt", "".join(lines).encode())

    yield add


@contextmanager
def write_png(settings: FormSettings) -> Iterator[Add]:
    """Writes png/NAME.png, uint16 instance numbers with 0 for the background, and png/NAME.json with their categories.

    Where objects overlap, the pixel belongs to the one with the better score.
    """

    def add(record: ImageRecord) -> None:
        if record.error:
            return
        objects = record.confident[:MAX_INSTANCES]
        instances = np.zeros(record.image_hw, np.uint16)
        for number, each in reversed(list(enumerate(objects, start=1))):
            pixels, y0, x0 = each.window
            region = instances[y0 : y0 + pixels.shape[0], x0 : x0 + pixels.shape[1]]
            region[pixels] = number
        labels = [
            {"instance": number, **{name: each.row[name] for name in ("category_id", "category_name", "score", "bbox")}}
            for number, each in enumerate(objects, start=1)
        ]
        base = settings.output / "png" / record.line["stem"]
        _write(base.with_name(f"{base.name}.png"), cv2.imencode(".png", instances)[1].tobytes())
        left_out = len(record.confident) - len(objects)
        content = {"file_name": record.name, "instances": labels, "left_out": left_out}
        _write(base.with_name(f"{base.name}.json"), json.dumps(content).encode() + b"\n")

    yield add
