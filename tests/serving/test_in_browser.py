"""The page in a headless Chromium: upload, overlays, slider, filter, downloads, several files, wrong files.

    python -m pytest -m slow tests/serving/test_in_browser.py --basetemp DIR

Takes half a minute. Needs Chromium: `playwright install chromium`, or one of the system. DIR then has screenshots.
"""

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from pycocotools import mask as coco_mask

from mrcnn_jax.serving.app import DemoServer
from mrcnn_jax.serving.uploads import Limits
from tests.serving.opened_page import Page, read_png
from tests.serving.stub import NOT_FINITE, StubFinder, StubPredictor, detect, encode_image

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow
SIZE = (600, 480)  # width, height; shown as it is
SYSTEM_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE_NAME = "<img src=x onerror=document.title='owned'>.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        paths = (None, *filter(None, map(shutil.which, SYSTEM_BROWSERS)))
        for path in paths:
            try:
                browser = driver.chromium.launch(executable_path=path)
                break
            except playwright.Error as error:
                reason = str(error).splitlines()[0]
        else:
            pytest.skip(f"no Chromium: {reason}")
        yield browser
        browser.close()


@pytest.fixture
def predictor() -> StubPredictor:
    return StubPredictor()


@pytest.fixture
def address(predictor: StubPredictor) -> Iterator[str]:
    """The address of a server that runs on a thread, with 4 requests at once and 1 MB an image."""
    demo = DemoServer(predictor, Limits(max_requests=4, max_bytes=10**6), StubFinder())
    server = uvicorn.Server(uvicorn.Config(demo.app, log_level="error", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not (server.started and demo.batcher.is_ready):
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        predictor.may_go_on.set()
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture
def opened(browser: Any, address: str, tmp_path: Path) -> Iterator[Page]:
    opened = Page(browser, address)
    yield opened
    opened.page.screenshot(path=tmp_path / "end.png", full_page=True)
    assert {url for url in opened.requests if not url.startswith((address, "blob:", "data:"))} == set()
    assert opened.page.title() == "Object detection", "no script of a file name has run"
    opened.page.context.close()


def test_masks_boxes_and_keypoints_are_drawn_and_can_be_left_out(opened: Page, tmp_path: Path) -> None:
    opened.upload(("grey.png", encode_image(100, SIZE)))
    opened.wait_for("600 x 480 pixels, 2 of 3 detections shown.")
    opened.page.screenshot(path=tmp_path / "drawn.png", full_page=True)
    found = detect((480, 600))
    opened.page.locator("#draw-boxes").uncheck()
    opened.page.locator("#draw-labels").uncheck()
    opened.page.locator("#draw-keypoints").uncheck()
    colored = (opened.pixels() != 100).any(-1)
    np.testing.assert_array_equal(colored, found.masks[:2].any(0), "exactly the masks of the answer")
    opened.page.locator("#draw-masks").uncheck()
    assert (opened.pixels() == 100).all()
    opened.page.locator("#draw-keypoints").check()
    pixels = opened.pixels()
    (head, hand, _), (x, y) = found.keypoints[1, :, :2], found.keypoints[1, :2, :2].mean(0)
    for point_x, point_y in (head, hand, (x, y)):  # two keypoints, and the middle of the bone between them
        assert (pixels[int(point_y), int(point_x)] != 100).any()
    assert (pixels[:10, :10] == 100).all(), "the third keypoint is hidden"
    opened.page.locator("#draw-keypoints").uncheck()
    opened.page.locator("#draw-boxes").check()
    x0, y0, x1, y1 = found.boxes[1]
    assert (opened.pixels()[int(y0 + y1) // 2, int(x0)] != 100).any()
    assert (opened.pixels()[int(y0 + y1) // 2, int(x0 + x1) // 2] == 100).all()
    assert opened.complaints == []


def test_slider_and_filter_choose_detections_without_the_server(opened: Page) -> None:
    opened.upload(("grey.png", encode_image(100, SIZE)))
    opened.wait_for("2 of 3 detections shown.")
    opened.page.locator("summary").click()
    assert [row[:2] for row in opened.rows()] == [["dog <b>", "0.900"], ["person", "0.600"]]
    before = len(opened.requests)
    for score, count in ((0.95, 0), (0.25, 3), (0.61, 1), (0.59, 2)):
        opened.set_score(score)
        opened.wait_for(f"{count} of 3 detections shown.")
        assert len(opened.rows()) == count and opened.page.locator("#score-value").inner_text() == f"{score:.2f}"
    opened.set_score(0.05)
    opened.page.get_by_label("dog <b>", exact=True).uncheck()
    opened.wait_for("1 of 3 detections shown.")
    assert [row[0] for row in opened.rows()] == ["person"]
    opened.page.locator("#none").click()
    opened.wait_for("0 of 3 detections shown.")
    assert (opened.pixels() == 100).all()
    opened.page.locator("#all").click()
    opened.wait_for("3 of 3 detections shown.")
    assert len(opened.requests) == before and opened.num_predictions() == 1 and opened.complaints == []


def test_proposals_and_mask_probabilities_are_drawn_if_wanted(opened: Page) -> None:
    opened.upload(("grey.png", encode_image(100, SIZE)))
    opened.wait_for("2 of 3 detections shown.")
    for name in ("masks", "boxes", "labels", "keypoints"):
        opened.page.locator(f"#draw-{name}").uncheck()
    assert (opened.pixels() == 100).all()
    opened.page.locator("#draw-proposals").check()
    colored = (opened.pixels() != 100).any(-1)
    assert colored[100:400, 298:303].any(1).all(), "the right border of the left half"
    assert not colored[10:470, 10:290].any() and not colored[:, 310:].any()
    opened.page.locator("#draw-proposals").uncheck()
    opened.page.locator("#draw-probabilities").check()
    colored = (opened.pixels() != 100).any(-1)
    assert colored[30, 30] and not colored[120, 150], "a ring"
    assert not colored[300:, :290].any()


def test_downloads_are_what_is_shown(opened: Page) -> None:
    opened.upload(("my.photo.png", encode_image(100, SIZE)))
    opened.wait_for("2 of 3 detections shown.")
    opened.set_score(0.7)
    opened.wait_for("1 of 3 detections shown.")
    name, data = opened.save(".save-json")
    saved = json.loads(data)
    assert name == "my.photo.json" and saved["file_name"] == "my.photo.png"
    assert saved["image"] == {"width": 600, "height": 480}
    (row,) = saved["detections"]
    assert row["category"] == "dog <b>" and row["score"] == 0.9
    np.testing.assert_array_equal(coco_mask.decode(row["mask"]).astype(bool), detect((480, 600)).masks[0])
    name, data = opened.save(".save-png")
    assert name == "my.photo_detections.png"
    np.testing.assert_array_equal(read_png(data), opened.pixels())


def test_files_at_once_wrong_files_and_hostile_names(opened: Page, predictor: StubPredictor) -> None:
    predictor.may_go_on.clear()
    opened.upload(
        ("first.png", encode_image(60, SIZE)),
        (HOSTILE_NAME, encode_image(90, (300, 200))),
        ("notes.txt", b"hello"),
        ("huge.png", bytes(1_000_001)),
        ("bad.png", encode_image(NOT_FINITE)),
        ("half.jpg", encode_image(90, (300, 200), "JPEG")[:700]),
    )
    opened.wait_for("Detecting objects ...", 3)
    predictor.may_go_on.set()
    opened.wait_for("2 of 3 detections shown.", 2)
    opened.wait_for("The file is not an image in one of these formats")
    opened.wait_for("The file is larger than 1 MB.")
    opened.wait_for("The network computed values that are not finite")
    opened.wait_for("The image is damaged or incomplete")
    assert opened.num_predictions() == 5, "the large file was not sent"
    assert opened.page.locator(".status.error").count() == 4
    assert HOSTILE_NAME in opened.page.locator("h2").all_inner_texts()
    assert opened.page.locator("#results img").count() == 0
    opened.page.locator(".remove").first.click()
    assert opened.page.locator(".result").count() == 5


def test_a_busy_server_is_asked_again(opened: Page, predictor: StubPredictor, address: str, browser: Any) -> None:
    predictor.may_go_on.clear()
    opened.upload(*((f"{mark}.png", encode_image(mark)) for mark in range(4)))
    opened.wait_for("Detecting objects ...", 4)
    other = Page(browser, address)
    wait_until(lambda: "mrcnn_queue_length 4" in other.page.request.get(f"{address}/metrics").text())
    other.upload(("late.png", encode_image(5)))
    other.wait_for("The server is busy. Try again in 1 s. Trying again in 1 s.")
    predictor.may_go_on.set()
    other.wait_for("2 of 3 detections shown.")
    opened.wait_for("2 of 3 detections shown.", 4)
    other.page.context.close()


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_is_gone_is_named(opened: Page) -> None:
    opened.page.route("**/predict", lambda route: route.abort())
    opened.upload(("a.png", encode_image()))
    opened.wait_for("The server cannot be reached. Is it still running?")


def test_run_lengths_are_decoded_as_pycocotools_encodes_them(opened: Page) -> None:
    rng = np.random.default_rng(0)
    masks = [
        rng.random(shape) < share for shape, share in (((37, 53), 0.5), ((200, 3), 0.02), ((1, 9), 1), ((5, 4), 0))
    ]
    masks.append(np.pad(np.ones((700, 300), bool), ((40, 0), (20, 300))))
    for mask in masks:
        code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        code = {"size": list(mask.shape), "counts": code["counts"].decode()}
        for scale in (1, 2, 0.37):
            np.testing.assert_array_equal(rasterize(opened, code, scale), scale_mask(mask, scale))


def rasterize(opened: Page, code: dict[str, Any], scale: float) -> np.ndarray:
    """What the page draws of a mask, on a canvas that is larger than needed."""
    script = """([code, scale]) => { const r = rasterize(code, scale); return r && {...r, bits: r.bits.join("")}; }"""
    found, canvas = opened.page.evaluate(script, [code, scale]), np.zeros((1600, 1600), bool)
    if found:
        x, y, width, height = (int(found[name]) for name in ("x", "y", "width", "height"))
        place = np.s_[y : y + height, x : x + width]
        canvas[place] = np.array(list(found["bits"]), "U1").reshape(canvas[place].shape) == "1"
    return canvas


def scale_mask(mask: np.ndarray, scale: float) -> np.ndarray:
    """A canvas pixel shows the image pixel in which its centre lies; outside the image there is nothing."""
    pixels = np.floor((np.arange(1600) + 0.5) / scale).astype(int)
    padded = np.pad(mask, ((0, 1), (0, 1)))
    return padded[np.ix_(np.minimum(pixels, mask.shape[0]), np.minimum(pixels, mask.shape[1]))]


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_the_page_fits_its_window(opened: Page, width: int, tmp_path: Path) -> None:
    opened.page.set_viewport_size({"width": width, "height": 800})
    opened.upload((f"{'long_name_' * 12}.png", encode_image(100, SIZE)), ("small.png", encode_image(50, (30, 20))))
    opened.wait_for("2 of 3 detections shown.", 2)
    opened.page.screenshot(path=tmp_path / f"width_{width}.png", full_page=True)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
