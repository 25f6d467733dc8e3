"""Archives, arrays and other files that lie about themselves are refused."""

from pathlib import Path

import pytest

from tests.weights.files.archive_cases import all_archives
from tests.weights.files.array_cases import all_arrays
from tests.weights.files.craft import Case
from tests.weights.files.refusal import assert_refused


@pytest.mark.parametrize("case", [*all_archives(), *all_arrays()], ids=lambda case: case.name)
def test_hostile_archives_are_refused(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(case, tmp_path)
