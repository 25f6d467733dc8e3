"""The command: exit codes, table and JSON, and that it finds the fault of the installed jaxlib."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrcnn_jax.cli import check_machine, command_line
from mrcnn_jax.known_faults import NO_REDUCTIONS, XLA_FLAGS, YNN_FLAG, installed_jaxlib
from mrcnn_jax.selftest import machine
from mrcnn_jax.selftest.findings import Finding, Setting, make_setting, relative_error

ROOT = Path(__file__).resolve().parents[2]
RIGHT = Finding("one", "2x2", 1e-7, 1e-6)
WRONG = Finding("two", "2x2", 1e-5, 1e-6, remedy="set a flag")
NOT_FINITE = Finding("three", "2x2", float("nan"), 1e-6)


def run(findings: list[Finding], monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    def check(_: Setting) -> Iterator[Finding]:
        yield from findings

    monkeypatch.setattr(machine, "CHECKS", {"all": check})
    monkeypatch.setattr(check_machine, "CHECKS", machine.CHECKS)
    monkeypatch.setattr(sys, "argv", ["check_machine.py", *argv])
    with pytest.raises(SystemExit) as ended:
        command_line.run(check_machine.main)
    return ended.value.code


def test_a_table_and_code_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run([RIGHT, RIGHT], monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"jaxlib {installed_jaxlib()}" in lines[0] and lines[-1].startswith("All 2 checks passed in ")
    assert [line.split() for line in lines if line.startswith("one")] == [
        ["one", "2x2", "1.0e-07", "1.0e-06", "ok"]
    ] * 2


def test_what_is_wrong_and_what_to_do_in_one_line_and_code_6(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run([RIGHT, WRONG, NOT_FINITE], monkeypatch) == 6
    printed = capsys.readouterr()
    assert printed.err == "error: 2 of 3 checks failed on this machine: two, three. Remedy: set a flag.\n"
    assert printed.out.count("WRONG") == 2


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run([RIGHT, WRONG, NOT_FINITE], monkeypatch, "--json") == 6
    content = json.loads(capsys.readouterr().out)
    assert content["passed"] is False and content["jaxlib"] == installed_jaxlib()
    assert [(row["check"], row["error"], row["passed"]) for row in content["findings"]] == [
        ("one", 1e-7, True),
        ("two", 1e-5, False),
        ("three", None, False),
    ]


def test_unknown_checks_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run([RIGHT], monkeypatch, "--only", "all,some") == 2
    assert "--only: there is no check some; choose from all." in capsys.readouterr().err


def test_accelerators_are_checked_at_both_precisions() -> None:
    assert [name for name, _ in make_setting("gpu", quick=False).precisions] == ["highest", "default"]
    assert [name for name, _ in make_setting("cpu", quick=True).precisions] == ["highest"]


def test_errors_are_relative_and_not_finite_values_are_errors() -> None:
    assert relative_error([1.0, 99.0], [0.0, 100.0]) == 0.01
    assert not Finding("", "", relative_error([1.0, float("inf")], [1.0, 1.0]), 1e9).passed
    with pytest.raises(ValueError, match=r"Expected shape \(2,\), got \(1,\)"):
        relative_error([1.0], [1.0, 1.0])


@pytest.mark.skipif(installed_jaxlib() != "0.10.2", reason="the fault is of jaxlib 0.10.2")
@pytest.mark.parametrize(("flags", "code"), [(f"{YNN_FLAG}=LIBRARY_FUSION_TYPE_REDUCE", 6), (None, 0)])
def test_the_fault_of_this_release_is_found_without_the_flag(flags: str | None, code: int) -> None:
    environ = {name: value for name, value in os.environ.items() if name != XLA_FLAGS}
    command = [sys.executable, "scripts/check_machine.py", "--only", "known-faults"]
    environ |= {XLA_FLAGS: flags} if flags else {}
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    if code:
        assert "jax 39103" in ended.stderr and NO_REDUCTIONS in ended.stderr
