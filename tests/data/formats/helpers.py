"""Small data sets on disk and what is read from them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.data.formats.reader import FormatSources, format_sources
from mrcnn_jax.data.prepare import prepare
from mrcnn_jax.data.source import Source
from tests.data.formats import writers


def photo(image_hw: tuple[int, int] = (40, 60), seed: int = 0) -> bytes:
    """An encoded image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (*image_hw, 3), np.uint8)
    return writers.png_of_colours(noise)


def dump(content: Any) -> bytes:
    return json.dumps(content).encode()


def read(files: writers.Files, root: Path, name: str = "auto", **arguments: Any) -> FormatSources:
    """Writes the files into a folder and reads them."""
    return format_sources(writers.save(files, root / "data"), name, **arguments)


def objects(source: Source, index: int = 0) -> list[dict[str, Any]]:
    """The objects of an image, each with the name of its class."""
    names = {category.id: category.name for category in source.categories}
    return [item | {"class": names[item["category_id"]]} for item in source.load(index).annotations]


def findings(source: Source, root: Path) -> list[str]:
    """The lines that preparation prints."""
    return prepare(source, root / "prepared", "train", max_skip_fraction=1.0).findings
