"""What an installed package offers: its public names, every folder of the code, the presets, the command."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mrcnn_jax
from mrcnn_jax import command_names, distributed, main, presets
from mrcnn_jax.cli import command_line
from mrcnn_jax.errors import ConfigError
from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_public_names_can_be_imported_and_are_documented() -> None:
    assert set(mrcnn_jax.__all__) == set(mrcnn_jax._HOMES) and set(mrcnn_jax.__all__) <= set(dir(mrcnn_jax))
    for name in mrcnn_jax.__all__:
        assert getattr(mrcnn_jax, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        mrcnn_jax.Predicter  # noqa: B018


def test_importing_the_package_imports_no_jax() -> None:
    code = "import mrcnn_jax, mrcnn_jax.main, sys; print('jax' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_wheel_has_every_folder_of_the_code() -> None:
    folders = {path.parent for path in (ROOT / "mrcnn_jax").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names | {"mrcnn_jax.preset_files"}
    assert PROJECT["project"]["version"] == mrcnn_jax.__version__
    assert (ROOT / "mrcnn_jax" / "py.typed").exists()


def test_presets_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_path = presets.load_preset(ROOT / "configs" / "shapes_tiny.py")
    assert presets.load_preset("shapes_tiny") == presets.load_preset("configs/shapes_tiny.py") == by_path
    assert len(presets.preset_names()) == len(list((ROOT / "configs").glob("*.py"))) > 30
    with pytest.raises(ConfigError, match=r"There is no preset shape_tiny: did you mean shapes_tiny\?"):
        presets.load_preset("shape_tiny")
    installed = tmp_path / "preset_files"
    installed.mkdir()
    (installed / "mine.py").write_text("from mrcnn_jax.config import Config\n\nconfig = Config()\n")
    monkeypatch.setattr(presets, "PACKAGE", tmp_path)
    assert presets.preset_names() == ["mine"] and presets.load_preset("mine") == mrcnn_jax.Config()


def test_every_command_has_a_module_and_a_script() -> None:
    for name, command in command_names.COMMANDS.items():
        assert (ROOT / "mrcnn_jax" / "cli" / f"{command.module}.py").exists()
        assert f'_checkout.run("{name}")' in (ROOT / "scripts" / command.script).read_text()
        assert command.summary.endswith(".") and command.summary[0].isupper()


def test_commands_of_several_processes_end_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = {}
    monkeypatch.setattr(sys, "argv", [])
    for name, command in command_names.COMMANDS.items():
        source = (ROOT / "mrcnn_jax" / "cli" / f"{command.module}.py").read_text()
        assert ("join_processes(" in source) == command.in_processes, name
        monkeypatch.setattr(command_line, "run", lambda main, leave, name=name: ended.update({name: leave}))
        main.run_command(name, [])
    assert {name for name, leave in ended.items() if leave is distributed.leave} == {"train", "evaluate"}
    assert {leave for leave in ended.values()} == {distributed.leave, sys.exit}


def test_messages_name_commands_as_they_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "See mrcnn benchmark-ops, mrcnn train and mrcnn trains."
    command_names.start("train")
    assert command_names.current() == command_names.typed("train") == "mrcnn train"
    assert command_names.as_typed(text) == text
    command_names.start("train.py")
    assert command_names.typed("prepare") == "python scripts/prepare_data.py"
    expected = "See python scripts/benchmark_ops.py, python scripts/train.py and mrcnn trains."
    assert command_names.as_typed(text) == expected


@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [
        (["--help"], 0, "usage: mrcnn COMMAND ..."),
        ([], 2, "usage: mrcnn COMMAND ..."),
        (["--version"], 0, f"mrcnn {mrcnn_jax.__version__}"),
        (["trian"], 2, "error: Unknown command 'trian': did you mean train? See mrcnn --help."),
    ],
)
def test_the_command_lists_its_subcommands(
    arguments: list[str], code: int, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mrcnn", *arguments])
    with pytest.raises(SystemExit) as caught:
        main.main()
    streams = capsys.readouterr()
    assert caught.value.code == code and (streams.out + streams.err).startswith(printed)
    if "usage" in printed:
        assert all(f"\n  {name} " in streams.out for name in command_names.COMMANDS)
