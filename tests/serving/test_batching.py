"""Images that wait share a call of the predictor; failures reach their own image; nothing is lost at the end."""

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest

from mrcnn_jax.serving.batching import MicroBatcher
from tests.serving.stub import FAILS, NOT_FINITE, StubPredictor


def make_image(mark: int, image_hw: tuple[int, int] = (40, 60)) -> np.ndarray:
    return np.full((*image_hw, 3), mark, np.uint8)


def make_batcher(predictor: StubPredictor) -> tuple[MicroBatcher, list[int]]:
    """A batcher that is ready, and the sizes of its batches."""
    warm, sizes = threading.Event(), []
    batcher = MicroBatcher(predictor, on_batch=lambda size, seconds: sizes.append(size), on_warm=warm.set)
    batcher.start()
    assert warm.wait(timeout=20)
    return batcher, sizes


def submit_while_busy(batcher: MicroBatcher, predictor: StubPredictor, images: list[np.ndarray]) -> list[Future]:
    """Submits the images while the predictor is occupied by another one, then lets it go on."""
    predictor.may_go_on.clear()
    first = batcher.submit(make_image(0))
    assert predictor.is_called.wait(timeout=20)
    futures = [batcher.submit(image) for image in images]
    predictor.may_go_on.set()
    return [first, *futures]


def test_images_that_wait_share_calls_in_their_order_and_a_lone_one_does_not_wait() -> None:
    predictor = StubPredictor()
    batcher, sizes = make_batcher(predictor)
    futures = submit_while_busy(batcher, predictor, [make_image(mark) for mark in range(1, 7)])
    assert [len(future.result(timeout=20).detections) for future in futures] == [3] * 7
    assert predictor.batches == [[0], [1, 2, 3, 4], [5, 6]] and sizes == [1, 4, 2]
    batcher.close()


def test_a_batch_has_images_of_one_canvas_and_each_gets_its_own_answer() -> None:
    predictor = StubPredictor()
    batcher, _ = make_batcher(predictor)
    flat, tall = (40, 60), (70, 50)
    shapes = [flat, tall, flat, tall, flat]
    images = [make_image(mark, shape) for mark, shape in enumerate(shapes, start=1)]
    futures = submit_while_busy(batcher, predictor, images)
    assert [future.result(timeout=20).detections.image_hw for future in futures[1:]] == shapes
    assert predictor.batches == [[0], [1, 3, 5], [2, 4]]
    batcher.close()


@pytest.mark.parametrize(("mark", "error"), [(FAILS, RuntimeError), (NOT_FINITE, Exception)])
def test_an_image_that_fails_spoils_no_other_one(mark: int, error: type[Exception]) -> None:
    predictor = StubPredictor()
    batcher, sizes = make_batcher(predictor)
    futures = submit_while_busy(batcher, predictor, [make_image(1), make_image(mark), make_image(2)])
    assert isinstance(futures[2].exception(timeout=20), error)
    assert [len(futures[index].result(timeout=20).detections) for index in (0, 1, 3)] == [3, 3, 3]
    assert predictor.batches == [[0], [1, mark, 2], [1], [mark], [2]] and sizes == [1, 1, 1]
    assert len(batcher.submit(make_image(3)).result(timeout=20).detections) == 3, "the thread goes on"
    batcher.close()


def test_cancelled_images_are_left_out() -> None:
    predictor = StubPredictor()
    batcher, _ = make_batcher(predictor)
    predictor.may_go_on.clear()
    batcher.submit(make_image(0))
    assert predictor.is_called.wait(timeout=20)
    futures = [batcher.submit(make_image(mark)) for mark in (1, 2)]
    assert futures[0].cancel()
    predictor.may_go_on.set()
    assert len(futures[1].result(timeout=20).detections) == 3 and predictor.batches == [[0], [2]]
    batcher.close()


def test_closing_answers_what_waits_and_refuses_more() -> None:
    predictor = StubPredictor()
    batcher, _ = make_batcher(predictor)
    futures = submit_while_busy(batcher, predictor, [make_image(1), make_image(2)])
    batcher.close()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(make_image(3))


def test_a_failed_warm_up_is_kept_and_does_not_delay_the_end() -> None:
    error = ValueError("no memory")
    batcher, _ = make_batcher(StubPredictor(warm_up_error=error))
    assert batcher.failure is error and not batcher.is_ready
    started = time.monotonic()
    batcher.close()
    assert time.monotonic() - started < 5
