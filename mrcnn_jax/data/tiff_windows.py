"""TIFF files of any size as images that are read window by window, with the package tifffile.

Files without compression are mapped into memory; of others, the tiles or strips that a window touches are decoded.
Pixels are those of data/images.py: 8-bit RGB, grey repeated, alpha dropped, more bits scaled by data/depth.py.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.config.depth_setting import AUTO_DEPTH
from mrcnn_jax.data.depth import DepthError, ValueRange, choose_range, scale_values
from mrcnn_jax.data.image_windows import ImageWindows
from mrcnn_jax.data.images import MAX_PIXELS, ImageError, ImageHW
from mrcnn_jax.integers import ceil_div

MAX_CACHE_BYTES = 2**28
"""Decoded segments of a file that are held, since neighbouring windows need the same ones."""

_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of TIFF and BigTIFF
_BAND_PIXELS = 2**22  # read at a time to find the range of values
_GREY_OR_COLOUR = ("MINISBLACK", "RGB", "YCBCR")

ReadValues = Callable[[int, int, int, int], np.ndarray]
"""Returns the stored values [y1 - y0, x1 - x0, samples] of rows y0 to y1 and columns x0 to x1."""


def is_tiff(path: Path) -> bool:
    """Returns whether a file starts as a TIFF does."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(4) in _MARKS
    return False


def count_pixels(path: Path) -> int:
    """Returns the pixels of a TIFF file's first page, 0 for damaged files. Raises ImportError without tifffile."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            return int(page.imagelength * page.imagewidth)
    except Exception:  # tifffile raises arbitrary exceptions on damaged files
        return 0


def open_tiff(path: Path, depth: str = AUTO_DEPTH) -> ImageWindows:
    """Returns the first page of a TIFF file, of any size.

    With more than 8 bits, the range of values is chosen as for other images, which reads the file once unless `depth`
    gives it. Raises ImportError without tifffile, and ImageError, also while windows are read, for what it cannot read.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            _check_form(page)
            image_hw = (int(page.imagelength), int(page.imagewidth))
            notes = ["several pages or frames, the first is read"] * (len(file.pages) > 1)
            read = _map_into_memory(path, image_hw) if page.is_memmappable else _Segments(path, page, image_hw)
    except ImageError:
        raise
    except Exception:  # tifffile raises arbitrary exceptions on damaged files
        raise ImageError("image cannot be decoded") from None
    if page.dtype == np.uint8:
        return ImageWindows(image_hw, lambda *window: _as_rgb(_read(read, window)), tuple(notes))
    chosen, note = _choose_range(read, image_hw, page.dtype, depth)
    notes += [note] * bool(note)
    return ImageWindows(image_hw, lambda *window: _as_rgb(scale_values(_read(read, window), chosen)), tuple(notes))


def _check_form(page: Any) -> None:
    """Raises ImageError for pages whose pixels are not plain grey or RGB values."""
    kind = page.photometric.name if page.photometric is not None else "missing"
    if kind not in _GREY_OR_COLOUR:
        raise ImageError(f"colours of the kind {kind} cannot be read in windows")
    if page.imagedepth != 1 or page.dtype is None or page.dtype.kind not in "uif":
        raise ImageError("values of this kind cannot be read in windows")
    orientation = page.tags.get(274)
    if orientation is not None and orientation.value != 1:
        raise ImageError("a turned image cannot be read in windows")


def _map_into_memory(path: Path, image_hw: ImageHW) -> ReadValues:
    import tifffile

    values: np.ndarray = tifffile.memmap(path, page=0, mode="r")
    if values.ndim == 3 and values.shape[1:] == image_hw:  # colours in separate planes
        values = np.moveaxis(values, 0, -1)
    values = values.reshape(*image_hw, -1) if values.ndim == 2 else values
    return lambda y0, y1, x0, x1: values[y0:y1, x0:x1]


class _Segments:
    """Reads windows of a page in tiles or strips, and holds the segments that were used last."""

    def __init__(self, path: Path, page: Any, image_hw: ImageHW) -> None:
        """Takes from the page, whose file may be closed afterwards, what decodes its segments."""
        self._path, self._dtype = path, page.dtype
        self._decoder, self._tables = page.decode, page.jpegtables
        self._offsets, self._byte_counts = page.dataoffsets, page.databytecounts
        if page.is_tiled:
            self._segment_hw = (int(page.tilelength), int(page.tilewidth))
        else:
            self._segment_hw = (min(int(page.rowsperstrip), image_hw[0]), image_hw[1])
        if self._segment_hw[0] * self._segment_hw[1] > MAX_PIXELS:
            raise ImageError(f"image is stored in pieces of more than {MAX_PIXELS // 10**6} million pixels")
        self._grid = tuple(ceil_div(side, piece) for side, piece in zip(image_hw, self._segment_hw, strict=True))
        self._num_samples = int(page.samplesperpixel)
        self._num_planes = self._num_samples if page.planarconfig == 2 else 1
        self._lock = threading.Lock()
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()
        self._held_bytes = 0

    def __call__(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Returns the values of a window."""
        height, width = self._segment_hw
        values = np.zeros((y1 - y0, x1 - x0, self._num_samples), self._dtype)
        for plane in range(self._num_planes):
            samples = slice(plane, plane + 1) if self._num_planes > 1 else slice(None)
            for row in range(y0 // height, ceil_div(y1, height)):
                for column in range(x0 // width, ceil_div(x1, width)):
                    segment = self._segment((plane * self._grid[0] + row) * self._grid[1] + column)
                    top, left = row * height, column * width
                    bottom, right = min(top + height, y1), min(left + width, x1)
                    first_y, first_x = max(top, y0), max(left, x0)
                    part = segment[first_y - top : bottom - top, first_x - left : right - left]
                    values[first_y - y0 : bottom - y0, first_x - x0 : right - x0, samples] = part
        return values

    def _segment(self, index: int) -> np.ndarray:
        with self._lock:
            if index in self._held:
                self._held.move_to_end(index)
                return self._held[index]
            segment = self._decode(index)
            self._held[index] = segment
            self._held_bytes += segment.nbytes
            while self._held_bytes > MAX_CACHE_BYTES and len(self._held) > 1:
                self._held_bytes -= self._held.popitem(last=False)[1].nbytes
            return segment

    def _decode(self, index: int) -> np.ndarray:
        """Returns a segment [h, w, samples]; one that is not stored contains zeros."""
        with self._path.open("rb") as file:  # each time, so that no file stays open
            file.seek(int(self._offsets[index]))
            data = file.read(int(self._byte_counts[index])) or None
        decoded, _, shape = self._decoder(data, index, jpegtables=self._tables)
        if decoded is None:
            return np.zeros(shape[1:], self._dtype)
        return np.asarray(decoded[0])


def _read(read: ReadValues, window: tuple[int, int, int, int]) -> np.ndarray:
    try:
        return read(*window)
    except ImportError as error:  # a compression that needs a further package
        raise ImageError(f"image cannot be decoded: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        if "imagecodecs" in str(error):
            raise ImageError("its compression needs another package: pip install imagecodecs") from None
        raise ImageError("image cannot be decoded") from None


def _as_rgb(values: np.ndarray) -> np.ndarray:
    """Returns uint8 RGB [h, w, 3]: grey values, with or without alpha, are repeated."""
    if values.shape[2] < 3:
        return np.repeat(values[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(values[:, :, :3])


def _choose_range(read: ReadValues, image_hw: ImageHW, dtype: np.dtype, depth: str) -> tuple[ValueRange, str]:
    height, width = image_hw
    step = max(1, _BAND_PIXELS // width)
    low, high = np.inf, -np.inf
    for first in range(0, height, step):
        values = _read(read, (first, min(first + step, height), 0, width))[:, :, :3]
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    try:
        return choose_range(low, high, dtype, depth)
    except DepthError as error:
        raise ImageError(str(error)) from None
