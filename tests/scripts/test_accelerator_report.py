"""The report on a machine: every part's result is kept at once, whatever becomes of the next one."""

import json
import sys
from pathlib import Path

import accelerator_report
import pytest
from accelerator_report import Arguments, Part, last_line, make_parts, read_outcome, run_parts

from mrcnn_jax.errors import ConfigError, DeviceError

BENCHMARK = {
    "median_ms": 12.345,
    "batch_size": 8,
    "peak_device_mib": 7000,
    "peak_rss_mib": 1,
    "compile_seconds": 80.4,
    "share_of_peak_flops": 0.31,
    "ms_by_part": {"backbone": {"forward": 3.0, "backward": 6.5}},
}


def python(code: str, **environment: str) -> Part:
    return Part([sys.executable, "-c", code], environment)


def test_results_are_kept_and_not_measured_again(tmp_path: Path) -> None:
    count = f"from pathlib import Path; p = Path({str(tmp_path / 'runs')!r}); p.open('a').write('x'); "
    parts = {
        "train": python(f"{count}print('''{json.dumps(BENCHMARK)}''')"),
        "broken": python("import sys; print('no JSON'); sys.exit(3)"),
        "bfloat16": python("import json, os; print(json.dumps({'fraction': float(os.environ['F'])}))", F="0.25"),
    }
    for _ in range(2):
        run_parts(parts, tmp_path, 60, 60)
    assert (tmp_path / "runs").read_text() == "x"
    assert read_outcome(tmp_path, "broken").error == "exit code 3"
    assert "no JSON" in (tmp_path / "broken.log").read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report) == ["train", "broken", "bfloat16"] and report["train"]["result"] == BENCHMARK
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("3 of 3 parts in ")
    assert "12.3 ms a batch of 8, 7000 MiB, compiled in 80 s, 31% of the peak |" in text
    assert "| broken | 0 | exit code 3 |" in text and "fraction 0.25" in text
    assert "| backbone | 3.00 | 6.50 |" in text


def test_a_part_that_hangs_is_ended(tmp_path: Path) -> None:
    parts = {"ops": python("import time; time.sleep(60)"), "bfloat16": python("print('{}')")}
    run_parts(parts, tmp_path, 1, 60)
    assert read_outcome(tmp_path, "ops").error == "ended after 1 s"
    assert read_outcome(tmp_path, "bfloat16").result == {}


def test_parts_that_the_time_did_not_reach_come_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"bfloat16": python("print('{}')"), "ops": python("import time; time.sleep(60)"), "golden": python("1")}
    monkeypatch.setattr(accelerator_report, "make_parts", lambda arguments: parts)
    monkeypatch.setattr(sys, "argv", ["accelerator_report.py", "--to", str(tmp_path), "--seconds", "2"])
    with pytest.raises(DeviceError, match="The 2 s were up before ops, golden"):
        accelerator_report.main()
    assert "1 of 3 parts" in (tmp_path / "report.md").read_text()
    parts["ops"] = python("print('{\"operations\": {}}')")
    monkeypatch.setattr(accelerator_report, "summarise", lambda name, result: "")
    with pytest.raises(DeviceError, match="Failed: golden"):
        accelerator_report.main()
    assert "3 of 3 parts" in (tmp_path / "report.md").read_text()


def test_what_was_done_stays_when_it_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_part = accelerator_report.run_part

    def run(part: Part, log: Path, seconds: float) -> accelerator_report.Outcome:
        if log.stem == "second":
            raise KeyboardInterrupt
        return run_part(part, log, seconds)

    monkeypatch.setattr(accelerator_report, "run_part", run)
    with pytest.raises(KeyboardInterrupt):
        run_parts({"first": python("print('{\"a\": 1}')"), "second": python("")}, tmp_path, 60, 60)
    assert json.loads((tmp_path / "report.json").read_text())["first"]["result"] == {"a": 1}
    assert "1 of 2 parts" in (tmp_path / "report.md").read_text()


def test_parts_and_their_order(tmp_path: Path) -> None:
    parts = make_parts(Arguments(to=tmp_path, torch_python="python-with-torch"))
    assert list(parts)[:3] == ["ops", "check_machine", "train"] and list(parts)[-1] == "torchvision"
    assert parts["golden"].environment["NVIDIA_TF32_OVERRIDE"] == "0"
    assert parts["torchvision"].command[0] == "python-with-torch"
    assert all(Path(part.command[1]).exists() for name, part in parts.items() if name != "golden")
    nowhere = make_parts(Arguments(to=Path("here"), nuclei=Path("there")))["learn"].command  # parts run elsewhere
    assert str(Path.cwd() / "here" / "learn") in nowhere and str(Path.cwd() / "there") in nowhere
    assert last_line("..\n7 passed in 3s\n") == {"summary": "7 passed in 3s"}


def test_an_unknown_part_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["accelerator_report.py", "--to", str(tmp_path / "new"), "--only", "ops,opss"])
    with pytest.raises(ConfigError, match="there is no part opss; choose from ops, check_machine"):
        accelerator_report.main()
    assert not (tmp_path / "new").exists()
