"""Forms in JSON, written image by image: predictions.json, results for pycocotools, polygons, GeoJSON."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import IO, Any

from mrcnn_jax.inference.forms.outlines import Polygon
from mrcnn_jax.inference.forms.records import FormSettings, ImageRecord
from mrcnn_jax.inference.prediction_log import replacing

Add = Callable[[ImageRecord], None]
"""Adds an image to a form; all images of a run are added in order, those with errors, too."""


class _JsonItems:
    """Items of a JSON array that are appended to a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._is_empty = True

    def append(self, item: Any) -> None:
        self._file.write(b"" if self._is_empty else b", ")
        self._file.write(json.dumps(item).encode())
        self._is_empty = False


def coco_results_of(record: ImageRecord) -> list[dict[str, Any]]:
    """Returns COCO results with file_name; {"image_id", "category_id", "bbox", "score", ...} for each detection."""
    return [{"image_id": record.number, **each.row, "file_name": record.name} for each in record.objects]


@contextmanager
def write_coco(settings: FormSettings) -> Iterator[Add]:
    """Writes predictions.json: "images", "categories", "predictions" (COCO results with names) and "errors"."""
    with ExitStack() as stack:
        target = stack.enter_context(replacing(settings.output / "predictions.json"))
        spools = [stack.enter_context(tempfile.TemporaryFile(dir=settings.output)) for _ in range(2)]
        images, predictions, errors = (_JsonItems(file) for file in (target, *spools))
        target.write(b'{"images": [')

        def add(record: ImageRecord) -> None:
            if record.error:
                errors.append({"file_name": record.name, "error": record.error})
                return
            fields = ("id", "file_name", "height", "width", "picture")
            images.append({name: record.line[name] for name in fields if name in record.line})
            for row in coco_results_of(record):
                predictions.append(row)

        yield add
        categories = json.dumps([asdict(category) for category in settings.categories])
        for before, spool in (
            (f'], "categories": {categories}, "predictions": [', spools[0]),
            ('], "errors": [', spools[1]),
        ):
            target.write(before.encode())
            spool.seek(0)
            shutil.copyfileobj(spool, target)
        target.write(b"]}\n")


@contextmanager
def write_coco_results(settings: FormSettings) -> Iterator[Add]:
    """Writes coco_results.json, the list that pycocotools' `loadRes` reads."""
    with replacing(settings.output / "coco_results.json") as file:
        items = _JsonItems(file)
        file.write(b"[")

        def add(record: ImageRecord) -> None:
            for row in coco_results_of(record):
                items.append(row)

        yield add
        file.write(b"]\n")


@contextmanager
def write_polygons(settings: FormSettings) -> Iterator[Add]:
    """Writes polygons.jsonl, one line for each image, with the holes and parts of every object."""
    with replacing(settings.output / "polygons.jsonl") as file:

        def add(record: ImageRecord) -> None:
            if record.error:
                return
            line = {name: record.line[name] for name in ("id", "file_name", "height", "width")}
            line["objects"] = [
                _named(each.row) | {"bbox": each.row["bbox"], "polygons": nested_rings(each.polygons)}
                for each in record.confident
            ]
            file.write(json.dumps(line).encode() + b"\n")

        yield add


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("category_id", "category_name", "score")}


def nested_rings(polygons: list[Polygon], *, closed: bool = False) -> list[list[list[list[float]]]]:
    """Returns [[outer, hole, ...], ...] with rings [[x, y], ...], of which `closed` repeats the first point."""
    return [
        [[*ring.tolist(), *([ring[0].tolist()] if closed else [])] for ring in (polygon.outer, *polygon.holes)]
        for polygon in polygons
    ]


@contextmanager
def write_geojson(settings: FormSettings) -> Iterator[Add]:
    """Writes geojson/NAME.geojson: a FeatureCollection in pixels of the image, as QuPath reads it."""

    def add(record: ImageRecord) -> None:
        if record.error:
            return
        features = []
        for each in record.confident:
            properties = {
                "objectType": "detection",
                "classification": {"name": each.row["category_name"]},
                **_named(each.row),
            }
            if each.polygons:
                geometry = {"type": "MultiPolygon", "coordinates": nested_rings(each.polygons, closed=True)}
                features.append({"type": "Feature", "geometry": geometry, "properties": properties})
        with replacing(settings.output / "geojson" / f"{record.line['stem']}.geojson") as file:
            file.write(json.dumps({"type": "FeatureCollection", "features": features}).encode() + b"\n")

    yield add
