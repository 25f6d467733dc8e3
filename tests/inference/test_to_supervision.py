"""Detections as those of supervision, which is optional: with a stand-in, and with the library if it is installed."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mrcnn_jax.errors import ConfigError
from tests.prediction_stub import detect

IMAGE = np.full((20, 30, 3), 128, np.uint8)


def test_fields_have_supervisions_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=lambda **fields: fields))
    fields = detect(IMAGE).to_supervision()
    assert fields["xyxy"].tolist() == [[0, 0, 30, 20], [0, 0, 15, 10]] and fields["class_id"].tolist() == [5, 7]
    assert fields["mask"].shape == (2, 20, 30) and fields["mask"].sum(axis=(1, 2)).tolist() == [600, 150]
    assert fields["confidence"].tolist() == [0.5, 0.125] and fields["data"]["class_name"].tolist() == ["light", "dark"]


def test_without_supervision_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        detect(IMAGE).to_supervision()


def test_supervision_accepts_them() -> None:
    supervision = pytest.importorskip("supervision")
    found = detect(IMAGE).to_supervision()
    assert isinstance(found, supervision.Detections) and found.area.tolist() == [600, 150]
    none = detect(IMAGE).select(np.zeros(2, bool)).to_supervision()
    assert len(none) == 0
