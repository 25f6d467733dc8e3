"""The stream of predictions: order, bounded memory, reading in order, overlap, and errors that end it."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mrcnn_jax.data.archives import Member
from mrcnn_jax.errors import DataError, NumericalError
from mrcnn_jax.inference import prediction_stream
from mrcnn_jax.inference.image_files import decode_input
from mrcnn_jax.inference.image_sources import InputFile
from mrcnn_jax.inference.prediction_stream import PredictedFile, map_ahead, predict_stream
from tests.prediction_stub import PredictorStub, write_image


def numbered(tmp_path, values):
    paths = [write_image(tmp_path / f"{k}.png", value) for k, value in enumerate(values)]
    return [(k, InputFile(path, path.name)) for k, path in enumerate(paths)]


def test_results_come_in_order_whatever_takes_longer(tmp_path):
    files = numbered(tmp_path, range(20))

    def finish(each: PredictedFile) -> tuple[int, float]:
        time.sleep(0.01 * (each.number % 3))
        return each.number, float(each.detections.scores[0])

    results = list(predict_stream(PredictorStub(), files, finish))
    assert results == [(k, k / 256) for k in range(20)]
    assert list(predict_stream(PredictorStub(), [], finish)) == []


def test_a_run_of_corrupt_files_is_no_group_without_end(tmp_path):
    files = numbered(tmp_path, range(30))
    for _, file in files[3:28]:
        file.path.write_bytes(b"")
    stub = PredictorStub()
    results = list(predict_stream(stub, files, lambda each: bool(each.error)))
    assert results == [False] * 3 + [True] * 25 + [False] * 2 and sum(stub.group_sizes) == 5


def test_few_images_are_in_memory_at_once(tmp_path):
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    class Pixels(np.ndarray):
        """An array that can be referenced weakly and counted."""

    def decode(*args, **kwargs):
        decoded = decode_input(*args, **kwargs)
        pixels = decoded.pixels.view(Pixels)
        alive.add(Counted(pixels))
        object.__setattr__(decoded, "pixels", pixels)
        return decoded

    class Counted:
        def __init__(self, pixels):
            pixels.counted = self  # lives as long as the pixels

    for _ in predict_stream(PredictorStub(), numbered(tmp_path, [1] * 200), lambda each: each.number, decode=decode):
        gc.collect(0)
        most = max(most, len(alive))
    assert 4 < most < 60
    gc.collect()
    assert len(alive) == 0


def test_large_images_are_not_read_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_stream, "MAX_GROUP_PIXELS", 100)
    stub = PredictorStub()
    assert list(predict_stream(stub, numbered(tmp_path, range(6)), lambda each: each.number)) == list(range(6))
    assert stub.group_sizes == [1] * 6


def test_compressed_archives_are_read_in_order(tmp_path):
    content, read = write_image(tmp_path / "a.png").read_bytes(), []

    class Archive:
        in_order = True

        def read(self, member):
            time.sleep(0.002 * (5 - member.place % 5))
            read.append((member.place, threading.current_thread().name))
            if member.place == 7:
                raise EOFError
            return content

    archive = Archive()
    files = [(k, InputFile(tmp_path, str(k), archive, Member(str(k), len(content), k))) for k in range(15)]
    errors = list(predict_stream(PredictorStub(), files, lambda each: each.error))
    assert [place for place, _ in read] == list(range(15)) and len({thread for _, thread in read}) == 1
    assert [k for k, error in enumerate(errors) if error] == [7]


def test_errors_of_the_network_and_of_the_caller_end_the_stream(tmp_path):
    files = numbered(tmp_path, [1] * 10 + [255] + [1] * 10)
    with pytest.raises(NumericalError, match=r"10\.png"):
        list(predict_stream(PredictorStub(), files, lambda each: each.number))

    def fail(each: PredictedFile) -> None:
        raise DataError("of the caller")

    with pytest.raises(DataError, match="of the caller"):
        list(predict_stream(PredictorStub(), files[:5], fail))
    stream = predict_stream(PredictorStub(), files[:10], lambda each: each.number)
    assert next(stream) == 0
    stream.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]


def test_reading_predicting_and_finishing_overlap(tmp_path):
    """The reader of file 16, the predictor of file 8 and `finish` of file 0 wait for each other."""
    meeting = threading.Barrier(3, timeout=20)

    def decode(file, *args, **kwargs):
        if file.name == "16.png":
            meeting.wait()
        return decode_input(file, *args, **kwargs)

    class Stub(PredictorStub):
        def __call__(self, images, names):
            if names[0].endswith("/8.png"):
                meeting.wait()
            return super().__call__(images, names)

    def finish(each: PredictedFile) -> int:
        if each.number == 0:
            meeting.wait()
        return each.number

    found = predict_stream(Stub(), numbered(tmp_path, range(40)), finish, decode=decode)
    assert list(found) == list(range(40))


def test_map_ahead_is_bounded_and_in_order():
    begun = []
    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, lambda item: begun.append(item) or item, iter(range(10)), 3)
        assert next(results) == 0
        time.sleep(0.05)
        assert len(begun) <= 4
        assert list(results) == list(range(1, 10))
