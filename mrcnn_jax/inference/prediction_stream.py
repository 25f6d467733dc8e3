"""Prediction of any number of images in constant memory: reading, the device and the caller's own work overlap.

Threads decode images ahead of the predictor, two groups of images are in the predictor, so that the host's part of one
overlaps with the device's part of the other, and threads do the caller's work on the detections. Results come in the
order of the files. Errors of single files are results, too; other errors end the stream.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.config import TestConfig
from mrcnn_jax.data.image_windows import ImageWindows, OpenedImage
from mrcnn_jax.data.images import DecodedImage
from mrcnn_jax.errors import DataError
from mrcnn_jax.inference.image_files import decode_input
from mrcnn_jax.inference.image_sources import InputFile
from mrcnn_jax.inference.postprocessing import ImageDetections

BATCHES_HELD = 4
"""Number of batches of images in a group, so that images with the same canvas form a batch."""

MAX_GROUP_PIXELS = 2**25
"""Groups with more pixels are not extended; a single image may have more."""

GROUPS_PREDICTED = 2
"""Number of groups that are in the predictor at once."""

NUM_READERS = 4
"""Threads that read and decode images."""

DecodeFn = Callable[..., DecodedImage | OpenedImage]
"""Reads the image of an InputFile, whose encoded bytes may be given, too, as `decode_input` does."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImagePredictor(Protocol):
    """What predicts: a Predictor, or an object that is called like one from several threads."""

    test_config: TestConfig
    categories: tuple[Category, ...]

    def __call__(self, images: Sequence[Any], names: Sequence[str]) -> list[ImageDetections]: ...


@dataclass(frozen=True, eq=False)
class PredictedFile:
    """A file with its pixels and detections, or with the error that kept it from being read."""

    number: int
    """Number of the file in the run."""
    file: InputFile
    pixels: np.ndarray | ImageWindows | None = None  # [H, W, 3] uint8 RGB
    notes: tuple[str, ...] = ()
    """What was decided to read the image."""
    error: str = ""
    detections: ImageDetections | None = None

    @property
    def num_pixels(self) -> int:
        return 0 if self.pixels is None else self.pixels.shape[0] * self.pixels.shape[1]


def predict_stream(
    predictor: ImagePredictor,
    files: Iterable[tuple[int, InputFile]],
    finish: Callable[[PredictedFile], Result],
    *,
    num_devices: int = 1,
    decode: DecodeFn = decode_input,
) -> Generator[Result, None, None]:
    """Yields `finish(predicted)` of each numbered file, in order; `finish` runs in threads.

    Files are read with `decode`. Close the iterator to stop early. Raises NumericalError if the network computes NaN or
    infinity for a file.
    """
    group_size = predictor.test_config.batch_size * num_devices * BATCHES_HELD
    with _threads(NUM_READERS) as readers, _threads(GROUPS_PREDICTED) as callers, _threads(_num_cpus()) as finishers:
        decode = partial(decode, depth=predictor.test_config.depth)
        read = _read_ahead(readers, files, decode, max_ahead=max(group_size, 2 * NUM_READERS))
        groups = _group(read, group_size)
        predicted = map_ahead(callers, partial(_predict_group, predictor), groups, GROUPS_PREDICTED)
        yield from map_ahead(finishers, finish, itertools.chain.from_iterable(predicted), 2 * _num_cpus())


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], max_ahead: int
) -> Iterator[Result]:
    """Yields function(item) in the order of the items; at most `max_ahead` further results are under way."""
    under_way: deque[Future[Result]] = deque()
    for item in items:
        under_way.append(pool.submit(function, item))
        del item  # which would keep a group of images alive
        if len(under_way) > max_ahead:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Provides a pool that drops what is not begun when the block ends, so that an error ends the stream at once."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _num_cpus() -> int:
    return min(8, max(2, os.cpu_count() or 1))


def _read_ahead(
    pool: ThreadPoolExecutor, files: Iterable[tuple[int, InputFile]], decode: DecodeFn, max_ahead: int
) -> Iterator[PredictedFile]:
    """Yields decoded files; fewer than `max_ahead` are read ahead if they are large."""
    under_way: deque[Future[PredictedFile]] = deque()
    for number, file in files:
        # In a compressed archive, going back means decompressing it from the beginning: this thread reads in order.
        data, error = _read_bytes(file) if file.in_order else (None, "")
        under_way.append(pool.submit(_read, number, file, data, error, decode))
        del data
        while len(under_way) > max_ahead or _num_pixels(under_way) > MAX_GROUP_PIXELS:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _num_pixels(under_way: Iterable[Future[PredictedFile]]) -> int:
    return sum(future.result().num_pixels for future in under_way if future.done())


def _read_bytes(file: InputFile) -> tuple[bytes | None, str]:
    try:
        return file.read_bytes(), ""
    except DataError as error:
        return None, str(error)


def _read(number: int, file: InputFile, data: bytes | None, error: str, decode: DecodeFn) -> PredictedFile:
    if error:
        return PredictedFile(number, file, error=error)
    try:
        decoded = decode(file, data)
    except DataError as failure:
        return PredictedFile(number, file, error=str(failure))
    return PredictedFile(number, file, decoded.pixels, decoded.notes)


def _group(read: Iterable[PredictedFile], max_images: int) -> Iterator[list[PredictedFile]]:
    """Yields files in groups of bounded number and size; those with an error count, too, but need no prediction."""
    group: list[PredictedFile] = []
    for each in read:
        group.append(each)
        num_images = sum(not each.error for each in group)
        if (
            num_images >= max_images
            or len(group) >= 2 * max_images
            or sum(each.num_pixels for each in group) > MAX_GROUP_PIXELS
        ):
            yield group
            group = []
    if group:
        yield group


def _predict_group(predictor: ImagePredictor, group: list[PredictedFile]) -> list[PredictedFile]:
    images = [each.pixels for each in group if each.pixels is not None]
    try:
        found = iter(predictor(images, names=[each.file.label for each in group if not each.error]) if images else ())
    except DataError as error:  # of an image that is read window by window
        if len(group) == 1:
            return [replace(group[0], pixels=None, error=str(error))]
        return [each for one in group for each in _predict_group(predictor, [one])]
    return [each if each.error else replace(each, detections=next(found)) for each in group]
