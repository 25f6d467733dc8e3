"""Micro-batching: images that wait together share a call of the network.

One thread calls the predictor. It never waits for a batch to fill: while the device computes a batch, the next one
gathers, so batches grow with the load and a lone image is not delayed.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mrcnn_jax.inference.batches import plan_batches
from mrcnn_jax.inference.image_proposals import ImageProposals, ProposalFinder
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.predictor import Predictor


class Found(NamedTuple):
    """The detections of an image, and its proposals if they were asked for."""

    detections: ImageDetections
    proposals: ImageProposals | None


@dataclass(frozen=True, eq=False)
class WaitingImage:
    """An image, uint8 RGB [H, W, 3], and the future of what is found in it."""

    image: np.ndarray
    answer: Future[Found] = field(default_factory=Future)


class MicroBatcher:
    """Predicts images that other threads submit: the oldest first, together with later ones of the same canvas.

    The number of images is not bounded here, but by those who submit (`serving/uploads.py`).
    """

    def __init__(
        self,
        predictor: Predictor,
        finder: ProposalFinder | None = None,
        *,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
        on_warm: Callable[[], None] = lambda: None,
    ) -> None:
        """Does nothing yet: see `start`.

        Args:
            predictor: warmed up and called on the batcher's thread only.
            finder: likewise; finds the proposals of every image.
            on_batch: is called with the number of images and the seconds of every call of the predictor.
            on_warm: is called at the end of the warm-up, whether it succeeded or failed.
        """
        self._predictor, self._finder, self._on_batch, self._on_warm = predictor, finder, on_batch, on_warm
        self._waiting: list[WaitingImage] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self.is_ready = False
        self.failure: BaseException | None = None
        """The error of the warm-up. If there is one, nothing can be predicted."""
        # A daemon, since a compilation cannot be interrupted and must not delay the end of the process.
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def start(self) -> None:
        """Starts the thread, which first compiles for all canvases."""
        self._thread.start()

    def submit(self, image: np.ndarray) -> Future[Found]:
        """Returns the future of what is found in an image, uint8 RGB [H, W, 3]. Raises RuntimeError if closed.

        The future raises what the predictor raises for this image, whatever happens to other images of its batch.
        """
        waiting = WaitingImage(image)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("The batcher is closed.")
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.answer

    def close(self) -> None:
        """Refuses further images, and returns when all waiting ones are answered, or at once during the warm-up."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self.is_ready:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._predictor.warm_up()
            if self._finder:
                self._finder.warm_up()
            self.is_ready = True
        except BaseException as error:
            self.failure = error
        self._on_warm()
        while self.failure is None and (batch := self._take_batch()):
            self._answer(batch)
            del batch  # its images need not stay in memory until the next one

    def _take_batch(self) -> list[WaitingImage]:
        """Waits for images; returns the next batch, or [] if the batcher is closed and no image is left."""
        config = self._predictor.test_config
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return []
                sizes = [(waiting.image.shape[0], waiting.image.shape[1]) for waiting in self._waiting]
                chosen = plan_batches(sizes, config, config.batch_size)[0].indices
                batch = [self._waiting[index] for index in chosen]
                self._waiting = [waiting for index, waiting in enumerate(self._waiting) if index not in chosen]
            # A future is cancelled when the server stops before its request is answered.
            if batch := [waiting for waiting in batch if waiting.answer.set_running_or_notify_cancel()]:
                return batch

    def _answer(self, batch: Sequence[WaitingImage]) -> None:
        """Predicts a batch; if that fails, each of its images alone, to find those that fail."""
        started = time.perf_counter()
        try:
            images = [waiting.image for waiting in batch]
            detections = self._predictor(images)
            proposals = self._finder(images) if self._finder else [None] * len(images)
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:
                for waiting in batch:
                    self._answer([waiting])
            return
        self._on_batch(len(batch), time.perf_counter() - started)
        for waiting, found, proposed in zip(batch, detections, proposals, strict=True):
            waiting.answer.set_result(Found(found, proposed))
