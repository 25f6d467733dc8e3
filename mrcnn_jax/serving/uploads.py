"""Reads the image of a request within limits on bytes, pixels, time and the number of requests.

Memory stays bounded: at most `max_requests` bodies are in memory at once, and decoded images of `pixel_budget` pixels
together. Files are decoded by data/images.py, as everywhere.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import numpy as np
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from mrcnn_jax.data.images import FORMATS, MAX_PIXELS, ImageError, decode_image, read_size
from mrcnn_jax.integers import ceil_div

MEGA = 10**6


@dataclass(frozen=True)
class Limits:
    """Limits of the server; a request beyond them is refused."""

    max_requests: int = 32
    """Requests that are read, wait or are predicted at the same time; further ones get status 503."""
    max_bytes: int = 20 * MEGA
    """Bytes of the body of a request."""
    max_pixels: int = 40 * MEGA
    """Pixels of an image."""
    body_seconds: float = 30.0
    """Time within which the body has to arrive."""
    memory_seconds: float = 30.0
    """Time that an image waits until the images before it have left memory (`pixel_budget`), before it is refused."""

    @property
    def pixel_budget(self) -> int:
        """Pixels of all decoded images that wait or are predicted, together."""
        return max(self.max_pixels, MAX_PIXELS)


class RequestError(Exception):
    """A request that is refused, with its HTTP status, a short name for metrics, and one line for the client."""

    def __init__(self, status: int, kind: str, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.retry_after = status, kind, message, retry_after


class Slots:
    """Counts the requests at work, up to a limit. For one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0

    @contextlib.contextmanager
    def take(self, retry_after: int) -> Iterator[None]:
        """Occupies a slot; RequestError 503 if there is none."""
        if self.taken >= self.limit:
            raise RequestError(503, "busy", f"The server is busy. Try again in {retry_after} s.", retry_after)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class PixelBudget:
    """Delays decoding while too many decoded pixels are in memory, first come, first served. For one event loop."""

    def __init__(self, pixels: int, max_seconds: float) -> None:
        self._free, self._max_seconds = pixels, max_seconds
        self._turn = asyncio.Lock()
        self._freed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def take(self, pixels: int) -> AsyncIterator[None]:
        """Occupies `pixels`, at most the whole budget, when they are free; RequestError 503 if that takes too long."""
        try:
            async with asyncio.timeout(self._max_seconds), self._turn, self._freed:
                await self._freed.wait_for(lambda: self._free >= pixels)
                self._free -= pixels
        except TimeoutError:
            retry = math.ceil(self._max_seconds)
            message = f"The server is busy with large images. Try again in {retry} s."
            raise RequestError(503, "busy_with_large_images", message, retry) from None
        try:
            yield
        finally:
            self._free += pixels
            async with self._freed:
                self._freed.notify_all()


async def read_upload(request: Request, limits: Limits) -> bytes:
    """Returns the encoded image of a request: the only file of a multipart form, or the whole body.

    Raises RequestError: 413 for too many bytes, 408 if they do not arrive in time, 400 for none or a wrong form.
    """
    body = await _read_body(request, limits)
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        body = await _file_of_form(request, body)
    if not body:
        raise RequestError(400, "empty", "The request contains no image.")
    return body


async def discard_body(request: Request, limits: Limits) -> None:
    """Reads the rest of a body that is refused, up to a limit, since many clients first send it and then read."""
    # starlette raises RuntimeError if the body has been read to its end
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(limits.body_seconds):
            left = 4 * limits.max_bytes
            async for chunk in request.stream():
                left -= len(chunk)
                if left < 0:
                    return


async def _read_body(request: Request, limits: Limits) -> bytes:
    too_large = RequestError(
        413, "too_many_bytes", f"The image is too large: at most {limits.max_bytes / MEGA:g} MB are accepted."
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise too_large
    chunks = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                chunks += chunk
                if len(chunks) > limits.max_bytes:
                    raise too_large
    except TimeoutError:
        raise RequestError(
            408, "slow", f"The request did not arrive within {limits.body_seconds:g} s. Try again."
        ) from None
    return bytes(chunks)


async def _file_of_form(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=2, max_fields=8)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # in memory, which the body's limit bounds, not on disk
    try:
        form = await parser.parse()
    except MultiPartException:
        raise RequestError(400, "bad_form", "The multipart form cannot be read. Send one image per request.") from None
    async with contextlib.AsyncExitStack() as stack:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        for file in files:
            stack.push_async_callback(file.close)
        if len(files) != 1:
            raise RequestError(400, "bad_form", f"Send one image per request, as a file; got {len(files)} files.")
        return await files[0].read()


def count_pixels(data: bytes, max_pixels: int) -> int:
    """Returns the number of pixels of an encoded image, from its header.

    Raises RequestError: 415 if no decoder knows the data, 413 if there are more than `max_pixels`.
    """
    try:
        height, width = read_size(data)
    except ImageError as error:
        if "pixels" not in error.reason:
            formats = ", ".join(FORMATS)
            raise RequestError(
                415, "not_an_image", f"The file is not an image in one of these formats: {formats}."
            ) from None
        count = f"more than {MAX_PIXELS / MEGA:.0f}"
        raise RequestError(413, "too_many_pixels", _too_many(count, max_pixels)) from None
    if height * width > max_pixels:
        count = f"{ceil_div(height * width, MEGA)} ({width} x {height})"
        raise RequestError(413, "too_many_pixels", _too_many(count, max_pixels))
    return height * width


def _too_many(count: str, max_pixels: int) -> str:
    return f"The image has {count} megapixels; at most {max_pixels / MEGA:g} are accepted. Scale it down."


def decode_upload(data: bytes, depth: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the pixels, uint8 RGB [H, W, 3], and notes on how they were read (`data.images.DecodedImage`).

    Raises RequestError 400 if the image is damaged or its values have no known range (`TestConfig.depth`).
    """
    try:
        decoded = decode_image(data, depth)
    except ImageError as error:
        if "values" in error.reason:
            raise RequestError(400, "unknown_range", f"The image cannot be scaled to 8 bits: {error.reason}.") from None
        raise RequestError(400, "damaged", "The image is damaged or incomplete: it cannot be decoded.") from None
    return decoded.pixels, decoded.notes
