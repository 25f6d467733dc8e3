"""The command `mrcnn inspect-data`: its lines, exit codes, report.json, and a page that needs no other file."""

import base64
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrcnn_jax.cli import inspect_data
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.inspection.catalogue import CHECKS
from tests.inspection.planted_set import make_splits, plant

PRESET = "from tests.inspection.planted_set import CONFIG as config\n"
HOSTILE = "nut<script>alert(1)</script>&\"'"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("command")
    train, val = make_splits(root)
    plant(train, val)
    train.names[2] = val.names[2] = HOSTILE
    train.prepare()
    val.prepare()
    (root / "preset.py").write_text(PRESET)
    return root


def run(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    preset = ["--preset", str(root / "preset.py")]
    monkeypatch.setattr(sys, "argv", ["mrcnn", *preset, *arguments])
    inspect_data.main()


class Page(HTMLParser):
    """Notices tags that are not closed, and collects attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_names_what_was_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(root, monkeypatch, "--data", str(root / "data"), "--to", str(tmp_path / "report"), "--examples", "2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "error split-copies: 1 of 24 images (4.2 %) of val are in train, too."
    assert lines[-1].startswith("2 errors, 12 warnings, 3 notes. Wrote ")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["counts"] == {"error": 2, "warning": 12, "note": 3}
    assert len(report["findings"]) == len(lines) - 1 == 17
    assert set(report["passed"]) | {each["check"] for each in report["findings"]} == set(CHECKS)
    copies = report["findings"][0]["examples"][0]
    assert (copies["split"], copies["file_name"], copies["other"]["file_name"]) == ("val", "00.png", "15.png")
    twice = next(each for each in report["findings"] if each["check"] == "repeated-object")
    assert twice["examples"][0]["annotation_ids"] == [4, 73]
    train = report["splits"][0]
    assert (train["images"], train["objects"], train["crowds"]) == (24, 84, 1)
    assert train["classes"][HOSTILE] == 32 and train["objects_per_image"] == [3, 3, 3, 4, 11]

    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and "script" not in page.tags and "link" not in page.tags
    assert not re.search(r"https?:|@import|url\(", text)
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) > 15 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    for source in sources:
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8), 1)
        assert 0 < max(picture.shape[:2]) <= 320


@pytest.mark.parametrize(
    ("split", "level", "fails"),
    [("", "error", True), ("train", "error", False), ("train", "warning", True), ("train", "never", False)],
)
def test_fail_on(split: str, level: str, fails: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--data", str(root / "data"), "--splits", split, "--fail-on", level]
    if fails:
        with pytest.raises(DataError, match=rf"The data has \d errors?, \d+ warnings.*\(--fail-on {level}\)"):
            run(root, monkeypatch, *arguments)
    else:
        run(root, monkeypatch, *arguments)


def test_settings_are_those_of_the_preset_and_the_options(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(root, monkeypatch, "--data.train", f"{root}/data:train", "--data.max-objects", "11")
    assert "too-many-objects" not in capsys.readouterr().out
    run(root, monkeypatch, "--data", f"{root}/data:val", f"{root}/data:train", "--test.max-detections", "2")
    out = capsys.readouterr().out
    assert "warning too-many-to-detect: 24 of 24 images (100.0 %) of val" in out and "too-many-objects" in out


def test_wrong_usage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in (
        ([], "Name the prepared data"),
        (["--data", str(root / "data"), "--splits", "train,test"], "has no split 'test'; choose one of"),
        (["--data", str(root / "data"), "--examples", "-1"], "--examples is at least 0"),
        (["--data", str(root / "data"), "--fail-on", "note"], "fail-on"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            run(root, monkeypatch, *arguments)
    with pytest.raises(DataError, match="No prepared data"):
        run(root, monkeypatch, "--data", str(root / "nothing"))
