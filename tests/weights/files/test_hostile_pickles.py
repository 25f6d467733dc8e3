"""Pickles that would run code, or take all memory or time, are refused."""

from pathlib import Path

import pytest

from tests.weights.files.craft import Case
from tests.weights.files.inert_cases import inert_cases
from tests.weights.files.pickle_cases import all_pickles
from tests.weights.files.refusal import assert_refused


@pytest.mark.parametrize("case", [*all_pickles(), *inert_cases()], ids=lambda case: case.name)
def test_hostile_pickles_are_refused(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(case, tmp_path)
