"""The benchmark of restarts: it removes the kept programs before each cold start alone, and says what failed."""

import json
import sys
from pathlib import Path

import pytest

from mrcnn_jax.cli import benchmark_restart
from mrcnn_jax.errors import DataError
from tests.paths import ROOT

PRESET = str(ROOT / "configs" / "overfit_tiny.py")
# Tells what it was told and found, ends its first step, and waits for a stop request.
TRAIN = """
import json, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
found = (workdir / "programs").exists()
(workdir / "programs").mkdir(exist_ok=True)
for file in (pathlib.Path({seen!r}), workdir / "metrics.jsonl"):
    with file.open("a") as lines:
        print(json.dumps({{"found": found, "options": sys.argv[1:]}}), file=lines)
signal.pause()
"""


def run(train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    (tmp_path / "train.py").write_text(train)
    monkeypatch.setattr(benchmark_restart, "TRAIN", (sys.executable, str(tmp_path / "train.py")))
    monkeypatch.setattr(sys, "argv", ["benchmark_restart.py", PRESET, *options])
    benchmark_restart.main()


def test_cold_and_warm_starts_take_turns(tmp_path, monkeypatch, capsys):
    seen = tmp_path / "seen.jsonl"
    options = ("--data.train", "folder:train", "--repeats", "2", "--train.seed=3")
    run(TRAIN.format(seen=str(seen)), tmp_path, monkeypatch, *options)
    printed = json.loads(capsys.readouterr().out)
    assert printed["preset"] == "overfit_tiny" and printed["ratio_of_medians"] > 0
    assert len(printed["seconds_without_programs"]) == len(printed["seconds_with_programs"]) == 2
    starts = [json.loads(line) for line in seen.read_text().splitlines()]
    assert [start["found"] for start in starts] == [False, False, True, False, True]
    assert all(start["options"][0] == PRESET for start in starts)
    assert all(
        start["options"][3:] == ["--data.train", "folder:train", "--train.seed=3", *benchmark_restart.EVERY_STEP]
        for start in starts
    )


def test_a_training_that_ends_is_not_timed(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="ended with exit code 3 instead of 75: error: no data"):
        run("import sys\nprint('\\nerror: no data\\n')\nsys.exit(3)", tmp_path, monkeypatch)
