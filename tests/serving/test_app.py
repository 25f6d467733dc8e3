"""The routes through starlette's client: answers, refusals with one line, limits, load, health and metrics."""

import base64
import json
import re
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL.PngImagePlugin import PngImageFile
from pycocotools import mask as coco_mask
from starlette.testclient import TestClient

from mrcnn_jax.serving import uploads
from mrcnn_jax.serving.app import DemoServer
from mrcnn_jax.serving.uploads import Limits
from tests.serving.stub import FAILS, NOT_FINITE, StubFinder, StubPredictor, detect, encode_image, read_metrics


@contextmanager
def serve(predictor: StubPredictor, finder: StubFinder | None = None, **limits: Any) -> Iterator[TestClient]:
    """A client of a server that is ready."""
    demo = DemoServer(predictor, Limits(**limits), finder)
    with TestClient(demo.app, base_url="http://localhost:8000") as client:
        for _ in range(400):
            if client.get("/healthz").status_code == 200:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("The server does not become ready.")
        yield client


@pytest.fixture
def client() -> Iterator[TestClient]:
    with serve(StubPredictor()) as client:
        yield client


def metrics(client: TestClient) -> dict[str, float]:
    return read_metrics(client.get("/metrics").text)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_the_answer_has_the_detections_of_the_image(client: TestClient, form: str) -> None:
    response = client.post("/predict", content=encode_image(size=(60, 40), form=form))
    assert response.status_code == 200, response.text
    answer, expected = response.json(), detect((40, 60))
    assert answer["image"] == {"width": 60, "height": 40} and answer["notes"] == []
    assert [row["category"] for row in answer["detections"]] == ["dog <b>", "person", "dog <b>"]
    assert [row["category_id"] for row in answer["detections"]] == [2, 7, 2]
    np.testing.assert_allclose([row["score"] for row in answer["detections"]], [0.9, 0.6, 0.3], atol=1e-6)
    np.testing.assert_allclose([row["box"] for row in answer["detections"]], expected.boxes, atol=1e-3)
    np.testing.assert_allclose([row["keypoints"] for row in answer["detections"]], expected.keypoints, atol=1e-3)
    decoded = np.stack([coco_mask.decode(row["mask"]) for row in answer["detections"]])
    np.testing.assert_array_equal(decoded.astype(bool), expected.masks)
    assert decoded[0].sum() > 0, "the ring is not empty"


def test_explained_answers_have_the_best_proposals_and_the_probabilities_of_the_masks(client: TestClient) -> None:
    plain = client.post("/predict", content=encode_image()).json()
    assert "proposals" not in plain and all("mask_probabilities" not in row for row in plain["detections"])
    with serve(StubPredictor(), StubFinder()) as explaining:
        answer = explaining.post("/predict", content=encode_image(), params={"score": 0.5}).json()
    assert len(answer["proposals"]) == 100, "the best ones"
    assert answer["proposals"][0] == {"box": [0, 0, 30, 40], "objectness": 1.0}
    assert len(answer["detections"]) == 2
    for row, expected in zip(answer["detections"], detect((40, 60)).mask_probabilities[:2], strict=True):
        found = row.pop("mask_probabilities")
        values = np.frombuffer(base64.b64decode(found["values"]), np.uint8).reshape(found["side"], found["side"])
        np.testing.assert_allclose(values / 255, expected, atol=0.5 / 255)
    assert answer["detections"] == plain["detections"][:2]


def test_a_form_with_one_file_is_read_like_a_body_and_its_name_is_no_path(client: TestClient) -> None:
    data = encode_image()
    body = client.post("/predict", content=data).json()
    for name in ("a.png", "../../../etc/passwd", "C:\\x.png", "a\x00b"):
        assert client.post("/predict", files={"any": (name, data)}, data={"other": "1"}).json() == body


@pytest.mark.parametrize(("score", "count"), [(None, 3), ("0", 3), ("0.5", 2), ("0.60001", 1), ("1", 0)])
def test_score_selects_detections(client: TestClient, score: str | None, count: int) -> None:
    response = client.post("/predict", content=encode_image(), params={"score": score} if score else {})
    assert len(response.json()["detections"]) == count


REFUSED = {
    "nothing": ({"content": b""}, 400, "The request contains no image."),
    "text": ({"content": b"hello"}, 415, "The file is not an image in one of these formats: JPEG, PNG"),
    "script": ({"content": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9"}, 415, "The file is not an image"),
    "half an image": ({"content": encode_image(size=(300, 200), form="JPEG")[:700]}, 400, "The image is damaged"),
    "a bad score": ({"content": encode_image(), "params": {"score": "high"}}, 400, "Expected score as a number"),
    "a score of NaN": ({"content": encode_image(), "params": {"score": "nan"}}, 400, "Expected score as a number"),
    "two files": ({"files": [("a", encode_image()), ("b", encode_image())]}, 400, "Send one image per request"),
    "a form without a file": ({"data": {"image": "x"}, "files": []}, 415, "The file is not an image"),
    "half a form": (
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}},
        400,
        "The multipart form cannot be read.",
    ),
    "many bytes": ({"content": bytes(100_001)}, 413, "The image is too large: at most 0.1 MB are accepted."),
    "many bytes of unknown number": ({"content": iter([bytes(60_000)] * 3)}, 413, "The image is too large"),
    "many pixels": (
        {"content": encode_image(size=(1500, 1000))},
        413,
        "The image has 2 (1500 x 1000) megapixels; at most 1 are accepted. Scale it down.",
    ),
    "values that are not finite": ({"content": encode_image(NOT_FINITE)}, 500, "The network computed values that are"),
    "a fault": ({"content": encode_image(FAILS)}, 500, "The image could not be predicted."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_requests_get_one_line_without_a_path(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, status, message = REFUSED[name]
    with serve(StubPredictor(), max_bytes=100_000, max_pixels=10**6) as client:
        response = client.post("/predict", **arguments)
        assert response.status_code == status and response.json()["error"].startswith(message), response.text
        assert "\n" not in response.json()["error"] and not re.search(r"/\w+/|secret|Traceback", response.text)
        assert metrics(client)[f'mrcnn_requests_total{{status="{status}"}}'] == 1
        assert metrics(client)["mrcnn_queue_length"] == 0, "its slot is free again"
        assert client.post("/predict", content=encode_image()).status_code == 200
    if name == "a fault":
        assert "secret.npz" in capsys.readouterr().err, "the reason is in the log"


def make_png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with a header of this size and these chunks, and no pixels."""
    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    chunks = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    coded = (len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


def test_sizes_are_checked_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(uploads, "decode_image", lambda *_: decoded.append("by us"))
    monkeypatch.setattr(PngImageFile, "load", lambda self: decoded.append("by Pillow"))
    mark = (b"tEXt", b"Comment\0eXIf")  # because of this mark, Pillow decodes the whole image to look for EXIF
    with serve(StubPredictor(), max_pixels=10**6) as client:
        for data in (make_png(5000, 6000), make_png(5000, 6000, mark), make_png(40_000, 40_000)):
            response = client.post("/predict", content=data)
            assert response.status_code == 413, response.text
            assert re.search(r"30 \(5000 x 6000\)|more than 134 megapixels", response.text)
    assert decoded == []


def test_uploads_at_once_share_batches_and_each_gets_its_own_answer() -> None:
    predictor = StubPredictor()
    sizes = [(60, 40), (30, 20), (33, 22), (50, 70), (40, 60), (96, 64)] * 3
    with serve(predictor) as client, ThreadPoolExecutor(len(sizes)) as pool:
        predictor.may_go_on.clear()
        futures = [pool.submit(client.post, "/predict", content=encode_image(size=size)) for size in sizes]
        wait_for(lambda: metrics(client)["mrcnn_queue_length"] == len(sizes))
        predictor.may_go_on.set()
        answers = [future.result(timeout=20).json()["image"] for future in futures]
        assert answers == [{"height": height, "width": width} for width, height in sizes]
        found = metrics(client)
    assert found["mrcnn_batch_size_sum"] == len(sizes) == found['mrcnn_requests_total{status="200"}']
    assert found["mrcnn_batch_size_count"] == len(predictor.batches) < len(sizes)
    assert found['mrcnn_batch_size_bucket{le="4"}'] == found['mrcnn_batch_size_bucket{le="+Inf"}']


def wait_for(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("The condition does not become true.")


def test_requests_beyond_the_queue_get_503_and_the_others_are_answered() -> None:
    predictor = StubPredictor()
    with serve(predictor, max_requests=5) as client, ThreadPoolExecutor(5) as pool:
        predictor.may_go_on.clear()
        futures = [pool.submit(client.post, "/predict", content=encode_image()) for _ in range(5)]
        wait_for(lambda: metrics(client)["mrcnn_queue_length"] == 5)
        for _ in range(20):
            refused = client.post("/predict", content=encode_image())
            assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"] == f"The server is busy. Try again in {refused.headers['Retry-After']} s."
        assert client.get("/healthz").status_code == 200, "a busy server is healthy"
        predictor.may_go_on.set()
        assert [future.result(timeout=20).status_code for future in futures] == [200] * 5
        assert client.post("/predict", content=encode_image()).status_code == 200
        found = metrics(client)
    assert found['mrcnn_errors_total{kind="busy"}'] == found['mrcnn_requests_total{status="503"}'] == 20
    assert found['mrcnn_requests_total{status="200"}'] == 6 and found["mrcnn_queue_length"] == 0


def test_decoded_pixels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads.Limits, "pixel_budget", 5000)
    predictor = StubPredictor()
    with serve(predictor) as client, ThreadPoolExecutor(6) as pool:
        predictor.may_go_on.clear()
        futures = [pool.submit(client.post, "/predict", content=encode_image(size=(60, 40))) for _ in range(6)]
        wait_for(lambda: metrics(client)["mrcnn_queue_length"] == 6)
        time.sleep(0.1)
        assert sum(map(len, predictor.batches)) <= 2, "5000 pixels are two images of 2400"
        predictor.may_go_on.set()
        assert [future.result(timeout=20).status_code for future in futures] == [200] * 6
    assert sum(map(len, predictor.batches)) == 6 and max(map(len, predictor.batches)) <= 2


def test_before_it_is_ready_the_server_answers_503(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = StubPredictor(warm_up_error=MemoryError())
    with TestClient(DemoServer(predictor, Limits()).app, base_url="http://localhost") as client:
        for response in (client.get("/healthz"), client.post("/predict", content=encode_image())):
            assert response.status_code == 503 and int(response.headers["Retry-After"]) >= 1
        assert metrics(client)["mrcnn_ready"] == 0 and client.get("/").status_code == 200


def test_the_model_is_described_without_paths(client: TestClient) -> None:
    described = client.get("/model").json()
    assert described == {
        "categories": [
            {"id": 2, "name": "dog <b>", "skeleton": []},
            {"id": 7, "name": "person", "skeleton": [[1, 2], [2, 3]]},
        ],
        "score_threshold": 0.05,
        "keypoint_score": 0.05,
        "batch_size": 4,
        "max_megabytes": 20.0,
        "max_megapixels": 40.0,
    }
    assert "/" not in json.dumps(described).replace("</", "")


def test_metrics_add_up(client: TestClient) -> None:
    for content in (encode_image(), encode_image(), b"text"):
        client.post("/predict", content=content)
    found = metrics(client)
    assert found['mrcnn_requests_total{status="200"}'] == 2 == found["mrcnn_batch_size_sum"]
    assert found['mrcnn_errors_total{kind="not_an_image"}'] == 1 and found["mrcnn_ready"] == 1
    buckets = [value for key, value in found.items() if key.startswith("mrcnn_request_seconds_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == found["mrcnn_request_seconds_count"] == 3
    assert client.get("/metrics").headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_other_paths_and_methods_are_refused(client: TestClient) -> None:
    assert client.get("/predict").status_code == 405 and client.get("/predict").json()["error"]
    for path in ("/page.js", "/../pyproject.toml", "/static/%2e%2e/x", "/docs"):
        assert client.get(path).status_code == 404 and client.get(path).json() == {"error": "Not Found."}
