"""Reads image files of unknown origin, as data/images.py decodes them."""

from pathlib import Path

import numpy as np

from mrcnn_jax.config.depth_setting import AUTO_DEPTH
from mrcnn_jax.data.images import FORMATS, DecodedImage, ImageError, decode_image
from mrcnn_jax.errors import DataError
from mrcnn_jax.inference.image_sources import InputFile


def read_image(path: Path, depth: str = AUTO_DEPTH, notes: dict[str, list[Path]] | None = None) -> np.ndarray:
    """Returns the pixels [H, W, 3] as uint8 RGB, upright as in an image viewer.

    Images with more than 8 bits are scaled as `depth` says (TestConfig.depth). What was decided to read the image, such
    as the range of its values, is added to `notes`: texts, each with the paths of the images. Raises DataError if the
    file cannot be read.
    """
    decoded = decode_input(InputFile(path, path.name), depth=depth)
    for note in decoded.notes:
        if notes is not None:
            notes.setdefault(note, []).append(path)
    return decoded.pixels


def decode_input(file: InputFile, data: bytes | None = None, *, depth: str = AUTO_DEPTH) -> DecodedImage:
    """Returns the upright pixels and notes of an image, whose encoded bytes are read now or are given as `data`.

    Raises DataError, with the file's path and what to do, if it cannot be read or decoded.
    """
    try:
        return decode_image(file.read_bytes() if data is None else data, depth)
    except ImageError as error:
        raise DataError(f"{file.label}: {error.reason}. {_remedy(error.reason)}") from None


def _remedy(reason: str) -> str:
    if "pixels" in reason:
        return "Scale it down, or write it as a TIFF in tiles and predict with --tile."
    if "values" in reason:
        return "State the range with --test.depth LOW,HIGH."
    return f"Expected a whole file in one of the formats {', '.join(FORMATS)}."
