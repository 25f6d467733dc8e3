"""The server's routes: the page, /predict, /model, /healthz and /metrics.

Every error is a JSON object with one line, {"error": "..."}, that contains no path of this machine.
"""

import asyncio
import contextlib
import math
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Collection

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mrcnn_jax.errors import NumericalError
from mrcnn_jax.inference.image_proposals import ProposalFinder
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.serving.answers import describe_found, describe_model
from mrcnn_jax.serving.batching import MicroBatcher
from mrcnn_jax.serving.hosts import HostGuard
from mrcnn_jax.serving.server_metrics import CONTENT_TYPE, ServerMetrics
from mrcnn_jax.serving.uploads import (
    Limits,
    PixelBudget,
    RequestError,
    Slots,
    count_pixels,
    decode_upload,
    discard_body,
    read_upload,
)
from mrcnn_jax.serving.web_page import assemble_page

WARM_UP_SECONDS = 5
"""Retry-After of requests during the warm-up."""
MAX_RETRY_SECONDS = 60


class DemoServer:
    """A predictor behind HTTP routes. `app` is the ASGI application; its lifespan runs the batcher."""

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits,
        finder: ProposalFinder | None = None,
        *,
        allowed_hosts: Collection[str] = (),
        on_warm: Callable[[], None] = lambda: None,
    ) -> None:
        """Does not start anything.

        Args:
            predictor: is warmed up on a thread when the application starts.
            limits: see `Limits`.
            finder: adds what explains the detections to the answers.
            allowed_hosts: names in the Host header of requests, besides localhost and IP addresses.
            on_warm: is called at the end of the warm-up, on another thread; `batcher.failure` is its error.
        """
        self._predictor, self._limits = predictor, limits
        self._metrics = ServerMetrics(predictor.test_config.batch_size)
        self._slots = Slots(limits.max_requests)
        self._budget = PixelBudget(limits.pixel_budget, limits.memory_seconds)
        self._page = assemble_page()
        self.batcher = MicroBatcher(predictor, finder, on_batch=self._metrics.batch, on_warm=on_warm)
        self.app = Starlette(
            routes=[
                Route("/", self._show_page),
                Route("/model", self._model),
                Route("/predict", self._predict, methods=["POST"]),
                Route("/healthz", self._healthz),
                Route("/metrics", self._show_metrics),
            ],
            middleware=[Middleware(HostGuard, allowed_hosts=allowed_hosts)],
            exception_handlers={HTTPException: _http_error},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.batcher.start()
        yield
        await asyncio.to_thread(self.batcher.close)

    async def _show_page(self, request: Request) -> Response:
        return HTMLResponse(self._page.html, headers={"Content-Security-Policy": self._page.policy})

    async def _model(self, request: Request) -> Response:
        predictor = self._predictor
        return JSONResponse(describe_model(predictor.categories, predictor.test_config, self._limits))

    async def _healthz(self, request: Request) -> Response:
        if self.batcher.is_ready:
            return JSONResponse({"status": "ready"})
        retry = {"Retry-After": str(WARM_UP_SECONDS)}
        return JSONResponse({"status": "warming up"}, status_code=503, headers=retry)

    async def _show_metrics(self, request: Request) -> Response:
        text = self._metrics.text(self._slots.taken, self.batcher.is_ready)
        return PlainTextResponse(text, headers={"Content-Type": CONTENT_TYPE})

    async def _predict(self, request: Request) -> Response:
        started = time.perf_counter()
        try:
            answer = await self._answer(request)
        except Exception as exception:
            error = as_request_error(exception)
            if error.status in (413, 503):
                await discard_body(request, self._limits)
            self._metrics.request(error.status, time.perf_counter() - started, error.kind)
            headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
            return JSONResponse({"error": error.message}, status_code=error.status, headers=headers)
        self._metrics.request(200, time.perf_counter() - started)
        return answer

    async def _answer(self, request: Request) -> Response:
        """Returns the detections; raises RequestError for all that can be foreseen."""
        if not self.batcher.is_ready:
            raise RequestError(503, "warming_up", "The model is being loaded. Try again soon.", WARM_UP_SECONDS)
        predictor, limits = self._predictor, self._limits
        with self._slots.take(self._retry_after()):
            score = read_score(request.query_params.get("score"))
            data = await read_upload(request, limits)
            pixels = await asyncio.to_thread(count_pixels, data, limits.max_pixels)
            async with self._budget.take(pixels):
                if await request.is_disconnected():  # while it waited: nobody reads the answer
                    raise ClientDisconnect
                image, notes = await asyncio.to_thread(decode_upload, data, predictor.test_config.depth)
                del data
                found = await asyncio.wrap_future(self.batcher.submit(image))
                del image
            answer = await asyncio.to_thread(describe_found, found, score, notes)
        return JSONResponse(answer)

    def _retry_after(self) -> int:
        """Returns the seconds in which a full queue is likely to be answered, at least 1."""
        num_batches = math.ceil(self._slots.limit / self._predictor.test_config.batch_size)
        return min(MAX_RETRY_SECONDS, max(1, math.ceil(num_batches * self._metrics.last_batch_seconds)))


def read_score(text: str | None) -> float:
    """Returns the lowest score of the detections in the answer; without a parameter, all that the model keeps."""
    try:
        score = 0.0 if text is None else float(text)
    except ValueError:
        score = math.nan
    if not 0.0 <= score <= 1.0:
        raise RequestError(400, "bad_score", "Expected score as a number from 0 to 1.")
    return score


def as_request_error(exception: Exception) -> RequestError:
    """Returns what the client is told of an error; one that cannot be foreseen is printed with its traceback."""
    if isinstance(exception, RequestError):
        return exception
    if isinstance(exception, ClientDisconnect):
        return RequestError(499, "client_left", "The client closed the connection.")
    if isinstance(exception, NumericalError):
        print(f"error: {exception}", file=sys.stderr, flush=True)
        message = "The network computed values that are not finite (NaN or infinity) for this image."
        return RequestError(500, "not_finite", message)
    traceback.print_exception(exception)
    return RequestError(500, "internal", "The image could not be predicted. The server's log has the reason.")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": f"{error.detail}."}, status_code=error.status_code, headers=error.headers)
