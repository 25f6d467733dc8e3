"""The page of the server in a browser, as a test sees and uses it."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def read_png(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


class Page:
    """The page, opened in a browser, and all that it requested and complained about."""

    def __init__(self, browser: Any, address: str) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        context = browser.new_context(viewport={"width": 1100, "height": 900}, accept_downloads=True)
        self.page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.goto(address)
        self.page.wait_for_function("() => model !== null")

    def upload(self, *files: tuple[str, bytes]) -> None:
        payload = [{"name": name, "mimeType": "", "buffer": data} for name, data in files]
        self.page.set_input_files("#files", payload)

    def wait_for(self, text: str, count: int = 1) -> None:
        """Waits until `count` results have this text in their status."""
        statuses = "[...document.querySelectorAll('.status')].filter((s) => s.textContent.includes(text)).length"
        self.page.wait_for_function(f"([text, count]) => {statuses} === count", arg=[text, count])

    def set_score(self, score: float) -> None:
        self.page.locator("#score").fill(str(score))

    def rows(self) -> list[list[str]]:
        return [re.split(r"\t", row) for row in self.page.locator("tbody tr").all_inner_texts() if row]

    def pixels(self) -> np.ndarray:
        """The first canvas, [H, W, 3]."""
        url = self.page.evaluate("document.querySelector('#results canvas').toDataURL('image/png')")
        return read_png(base64.b64decode(url.partition(",")[2]))

    def num_predictions(self) -> int:
        return sum(url.endswith("/predict") for url in self.requests)

    def save(self, selector: str) -> tuple[str, bytes]:
        with self.page.expect_download() as download:
            self.page.locator(selector).first.click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()
