"""Tables with one row for each detection: CSV, and Parquet where pyarrow is installed."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mrcnn_jax.errors import ConfigError
from mrcnn_jax.inference.forms.json_forms import Add
from mrcnn_jax.inference.forms.records import FormSettings, ImageRecord
from mrcnn_jax.inference.prediction_log import replacing

COLUMNS = (
    "image_id", "file_name", "height", "width", "category_id", "category_name", "score",
    "x0", "y0", "x1", "y1", "area", "rle", "keypoints",
)  # fmt: skip
"""Columns of both tables. `rle` is the mask's compressed COCO run-length code of the size height x width."""

ROWS_WRITTEN = 2**13
"""Rows that are held in memory for Parquet."""


def _rows(record: ImageRecord) -> Iterator[tuple[Any, ...]]:
    if record.error:
        return
    height, width = record.image_hw
    for each in record.confident:
        row = each.row
        x, y, box_width, box_height = row["bbox"]
        box = (x, y, x + box_width, y + box_height)
        named = (record.number, record.name, height, width, row["category_id"], row["category_name"], row["score"])
        rle = row["segmentation"]["counts"] if "segmentation" in row else None
        yield (*named, *box, each.area, rle, row.get("keypoints"))


@contextmanager
def write_csv(settings: FormSettings) -> Iterator[Add]:
    """Writes predictions.csv; keypoints are a JSON list."""
    with replacing(settings.output / "predictions.csv") as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        table = csv.writer(text)
        table.writerow(COLUMNS)

        def add(record: ImageRecord) -> None:
            for *row, keypoints in _rows(record):
                table.writerow([*row, json.dumps(keypoints) if keypoints else None])

        yield add
        text.detach()


@contextmanager
def write_parquet(settings: FormSettings) -> Iterator[Add]:
    """Writes predictions.parquet. Raises ConfigError if pyarrow is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("Parquet needs pyarrow, which is not installed: pip install pyarrow") from None
    kinds = [pa.int64(), pa.string(), pa.int32(), pa.int32(), pa.int64(), pa.string(), pa.float32()]
    kinds += [pa.float32()] * 4 + [pa.int64(), pa.string(), pa.list_(pa.float32())]
    schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
    pending: list[tuple[Any, ...]] = []
    with replacing(settings.output / "predictions.parquet") as file, pq.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            columns = zip(*pending, strict=True) if pending else [()] * len(COLUMNS)
            arrays = [pa.array(list(column), kind) for column, kind in zip(columns, kinds, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            pending.clear()

        def add(record: ImageRecord) -> None:
            pending.extend(_rows(record))
            if len(pending) >= ROWS_WRITTEN:
                flush()

        yield add
        flush()
