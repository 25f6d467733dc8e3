"""Lines of predictions.jsonl with their masks, decoded and outlined once for all forms that are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.data.annotations import decode_counts
from mrcnn_jax.data.bitmaps import decode_columns
from mrcnn_jax.data.images import ImageHW
from mrcnn_jax.inference.forms.outlines import Polygon, trace_outline


@dataclass(frozen=True)
class FormSettings:
    """What all forms of a run have in common."""

    output: Path
    categories: tuple[Category, ...]
    simplify: float = 1.0
    """Largest distance between a mask's exact outline and its polygons, in pixels; 0 is exact."""
    score: float = 0.5
    """Lowest score of the detections in all forms but coco and coco-results."""
    image_paths: Sequence[Path | None] = ()
    """Path of each image of the run, by its id - 1; None for images in archives."""


@dataclass(frozen=True)
class DetectedObject:
    """A detection of one image."""

    row: dict[str, Any]
    """category_id, category_name, bbox [x, y, width, height] and score; segmentation and keypoints if predicted."""
    simplify: float

    @cached_property
    def window(self) -> tuple[np.ndarray, int, int]:
        """The mask's pixels, bool [h, w], and the row and column of the image at which they begin."""
        code = self.row.get("segmentation", {"counts": "", "size": [0, 0]})
        counts = decode_counts(code["counts"])
        if counts is None or not counts[1::2].any():
            return np.zeros((0, 0), bool), 0, 0
        height = code["size"][0]
        ends = np.cumsum(counts)
        is_run = counts[1::2] > 0
        first = int(ends[0::2][: len(is_run)][is_run][0]) // height
        last = -(-int(ends[1::2][is_run][-1]) // height)
        columns = decode_columns(counts, height, first, last).astype(bool)
        rows = np.flatnonzero(columns.any(axis=1))
        return columns[rows[0] : rows[-1] + 1], int(rows[0]), first

    @cached_property
    def polygons(self) -> list[Polygon]:
        """The mask's outline in pixels of the image; a rectangle if the model has no masks; [] for an empty mask."""
        if "segmentation" not in self.row:
            x, y, width, height = self.row["bbox"]
            corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
            return [Polygon(np.array(corners, np.float64), [])]
        pixels, y0, x0 = self.window
        start = np.array([x0, y0])
        return [
            Polygon(outer + start, [hole + start for hole in holes])
            for outer, holes in trace_outline(pixels, self.simplify)
        ]

    @property
    def area(self) -> int | None:
        """Pixels of the mask; None if the model has no masks."""
        return int(self.window[0].sum()) if "segmentation" in self.row else None


@dataclass(frozen=True)
class ImageRecord:
    """An image of predictions.jsonl, with its detections or its error."""

    line: dict[str, Any]
    objects: tuple[DetectedObject, ...]
    """All detections, best first."""
    score: float

    @classmethod
    def read(cls, line: dict[str, Any], settings: FormSettings) -> Self:
        """Returns the record of a line."""
        rows = line.get("detections", ())
        return cls(line, tuple(DetectedObject(row, settings.simplify) for row in rows), settings.score)

    @property
    def number(self) -> int:
        """The image's id."""
        return int(self.line["id"])

    @property
    def name(self) -> str:
        return str(self.line["file_name"])

    @property
    def error(self) -> str:
        """Why the image could not be read, or ""."""
        return str(self.line.get("error", ""))

    @property
    def image_hw(self) -> ImageHW:
        return int(self.line["height"]), int(self.line["width"])

    @property
    def confident(self) -> list[DetectedObject]:
        """The detections with at least the score of the settings."""
        return [each for each in self.objects if each.row["score"] >= self.score]
