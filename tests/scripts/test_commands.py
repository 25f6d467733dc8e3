"""Every script: a --help that works on its own, and refusals with exit code 2. No script does its work here."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("[!_]*.py"))
SUBCOMMANDS = {"prepare_data.py": ["shapes"], "benchmark.py": ["infer"]}
PRESET = str(ROOT / "configs" / "shapes_tiny.py")
TAKE_A_PRESET = ("train.py", "gpu_compile.py", "tpu_compile.py", "benchmark_data.py", "benchmark_restart.py")
NEED_NOTHING = ("check_machine.py",)
POSITIONAL = {**{name: [PRESET] for name in TAKE_A_PRESET}, **SUBCOMMANDS}


def run_script(name: str, *argv: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of a script that runs in this process."""
    path = ROOT / "scripts" / name
    monkeypatch.setattr(sys, "argv", [str(path), *argv])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(path), run_name="__main__")
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_says_what_the_script_does(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in [[*SUBCOMMANDS.get(name, []), "--help"], ["--help"]]:
        assert run_script(name, *argv, monkeypatch=monkeypatch) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"usage: python scripts/{name}")
        assert len(printed.splitlines()[2]) > 20, "a description"
    assert "--debug" in printed


@pytest.mark.parametrize("name", SCRIPTS)
def test_unknown_options_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(name, *POSITIONAL.get(name, []), "--helpp", monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr()
    assert printed.err == "error: Unknown option --helpp: did you mean --help? See --help.\n" and printed.out == ""


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in NEED_NOTHING])
def test_without_arguments_a_script_says_what_it_needs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(name, monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"error: .{20,}\n", printed.err) and printed.out == ""


@pytest.mark.parametrize("name", ["quickstart.sh", "test.sh", "_environment.sh"])
def test_shell_scripts_parse(name: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / name)], check=True)


@pytest.mark.parametrize("python", ["false", "no-such-python"])
def test_an_unsuitable_python_is_refused(tmp_path: Path, python: str) -> None:
    environment = ROOT / "scripts" / "_environment.sh"
    result = subprocess.run(
        ["bash", "-euc", f"source '{environment}'; prepare_environment requirements.txt"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": python},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr == f"error: PYTHON={python} is not a working Python 3.11, 3.12 or 3.13.\n"
    assert not list(tmp_path.iterdir())


def test_a_python_without_the_requirements_is_told_what_to_install() -> None:
    command = [sys.executable, "-S", "-E", "scripts/train.py", "--help"]  # -S: without installed packages
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert re.fullmatch(r"error: jaxlib is not installed .* -m pip install -r .*requirements.txt\n", result.stderr)
