"""Writes predictions in several forms at once, in one pass over predictions.jsonl and in constant memory."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inference.forms.json_forms import Add, write_coco, write_coco_results, write_geojson, write_polygons
from mrcnn_jax.inference.forms.label_files import write_labelme, write_png, write_yolo
from mrcnn_jax.inference.forms.records import FormSettings, ImageRecord
from mrcnn_jax.inference.forms.table_forms import write_csv, write_parquet

FORMS: dict[str, Callable[[FormSettings], AbstractContextManager[Add]] | None] = {
    "jsonl": None,  # always there: the others are made from it
    "coco": write_coco,
    "coco-results": write_coco_results,
    "polygons": write_polygons,
    "labelme": write_labelme,
    "yolo": write_yolo,
    "png": write_png,
    "csv": write_csv,
    "geojson": write_geojson,
    "parquet": write_parquet,
}

PATHS = {
    "jsonl": "predictions.jsonl",
    "coco": "predictions.json",
    "coco-results": "coco_results.json",
    "polygons": "polygons.jsonl",
    "labelme": "labelme/",
    "yolo": "yolo/",
    "png": "png/",
    "csv": "predictions.csv",
    "geojson": "geojson/",
    "parquet": "predictions.parquet",
}
"""Where each form lies in the output folder."""


@dataclass
class Written:
    """What the lines of a run contain besides detections."""

    num_images: int = 0
    """Number of images without an error."""
    errors: dict[str, str] = field(default_factory=dict)
    """Errors by the image's name."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was decided to read images, with the number of images."""
    first_noted: dict[str, str] = field(default_factory=dict)
    """Name of the first image of each note."""


def check_forms(names: Sequence[str]) -> None:
    """Raises ConfigError for a form that does not exist or whose library is not installed."""
    for name in names:
        if name not in FORMS:
            raise ConfigError(f"Unknown form {name}. Expected some of {', '.join(FORMS)}, separated by commas.")
        if name == "parquet":
            try:
                import pyarrow  # noqa: F401
            except ImportError:
                raise ConfigError("Parquet needs pyarrow, which is not installed: pip install pyarrow") from None


def write_forms(names: Sequence[str], lines: Iterable[dict[str, Any]], settings: FormSettings) -> Written:
    """Writes the named forms of all lines of predictions.jsonl. Raises ConfigError, DataError or StorageError."""
    written = Written()
    with ExitStack() as stack:
        writers = [FORMS[name] for name in dict.fromkeys(names)]
        adds = [stack.enter_context(writer(settings)) for writer in writers if writer is not None]
        for line in lines:
            record = ImageRecord.read(line, settings)
            written.num_images += not record.error
            if record.error:
                written.errors[record.name] = record.error
            for note in line.get("notes", ()):
                written.notes[note] += 1
                written.first_noted.setdefault(note, record.name)
            for add in adds:
                add(record)
    return written
