"""Kept checkpoints written as weights folders: leaf by leaf what was saved, averages where they are on."""

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.cli import command_line, write_weights
from mrcnn_jax.config import Config, TestConfig, TrainConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.named_leaves import named_leaves
from mrcnn_jax.run_folder import read_run_folder
from mrcnn_jax.training.checkpoint import Checkpoints
from mrcnn_jax.training.checkpoint_reader import EvaluationRecord
from mrcnn_jax.training.kept_weights import write_kept_weights
from mrcnn_jax.training.optimizer import make_optimizer
from mrcnn_jax.training.settings import CATEGORIES, recorded_categories, recorded_config, run_settings
from mrcnn_jax.training.state import make_train_state
from mrcnn_jax.training.workdir import claim_workdir
from mrcnn_jax.weights.folder import load_weights
from tests import tiny

CLASSES = (Category(3, "cat", ("nose", "tail"), ((1, 2),)), Category(7, "dog"), Category(9, "Köter"))
MODEL = replace(tiny.MODEL, freeze_at=2, norm="frozen_bn", num_keypoints=0)
TEST = TestConfig(short_side=64, max_side=96, canvases=((64, 96),), score_threshold=0.25)
PLAIN = Config(model=MODEL, test=TEST, train=TrainConfig(num_steps=9))
AVERAGED = replace(PLAIN, train=TrainConfig(num_steps=9, ema_decay=0.9, accumulate_steps=3, clip_norm=1.0))
SCORES = {2: 0.2, 4: 0.7, 6: 0.3}


def make_state(config: Config, step: int):
    """A state in which every leaf is another one for each step, averages included. Nothing is compiled."""
    state = make_train_state(tiny.make_variables(config.model), make_optimizer(config.train, config.model))
    leaves, tree = jax.tree.flatten(state)
    changed = [leaf + 1e-3 * (step + n) if leaf.dtype == jnp.float32 else leaf for n, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, changed).replace(step=jnp.asarray(step, jnp.int32))


def expected_leaves(config: Config, step: int) -> dict[str, np.ndarray]:
    """What a weights folder has to contain, by the names of the state's leaves."""
    leaves = named_leaves(make_state(config, step))
    variables = {name: leaf for name, leaf in leaves.items() if name.startswith("params/")}
    averages = {f"params/{name.partition('/averaged_params/')[2]}": leaf for name, leaf in leaves.items()}
    averages = {name: leaf for name, leaf in averages.items() if name in variables}
    assert bool(averages) == (config is AVERAGED) and len(averages) < len(variables)  # some are frozen
    frozen = {name.removeprefix("model_state/"): leaf for name, leaf in leaves.items() if name.startswith("model_s")}
    return variables | averages | frozen


def save_run(workdir: Path, config: Config, categories: tuple[Category, ...] = CLASSES) -> None:
    """Steps 2 to 8, of which 8 has no evaluation of its own; the best and the last two are kept."""
    settings = run_settings(config, fingerprint="abc", num_records=5, categories=categories)
    if not categories:
        del settings[CATEGORIES]  # as earlier versions wrote them
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2)
    for step in (2, 4, 6, 8):  # 2 is removed
        at = min(step, 6)
        checkpoints.save(step, make_state(config, step), settings, EvaluationRecord(at, {}, SCORES[at]))
    checkpoints.close()


@pytest.fixture(scope="module")
def workdir_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], Path]:
    """The workdir of a run with this config, which keeps steps 4, 6 and 8."""

    @functools.cache
    def make(config: Config) -> Path:
        workdir = tmp_path_factory.mktemp("run")
        save_run(workdir, config)
        return workdir

    return make


@pytest.fixture
def workdir(workdir_of: Callable[[Config], Path]) -> Path:
    return workdir_of(PLAIN)


@pytest.mark.parametrize(
    ("config", "wanted", "step"),
    [(config, *case) for config in (PLAIN, AVERAGED) for case in (("best", 4), ("6", 6), ("last", 8))],
)
def test_every_kept_step_is_written_leaf_by_leaf(
    workdir_of: Callable[[Config], Path], config: Config, wanted: str, step: int, tmp_path: Path
) -> None:
    workdir = workdir_of(config)
    before = sorted(workdir.rglob("*"))
    written = write_kept_weights(workdir, wanted, tmp_path / "weights")
    assert (written.step, written.is_averaged, written.has_replaced) == (step, config is AVERAGED, False)
    assert written.score == (SCORES[step] if step < 8 else None)
    weights = load_weights(tmp_path / "weights")
    assert (weights.step, weights.model, weights.test, weights.categories) == (step, config.model, TEST, CLASSES)
    assert weights.loss == config.loss
    found, expected = named_leaves(dict(weights.variables)), expected_leaves(config, step)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    assert sorted(workdir.rglob("*")) == before


def test_recorded_settings_are_read_back() -> None:
    settings = run_settings(AVERAGED, fingerprint="abc", num_records=5, categories=CLASSES)
    assert (recorded_config(settings), recorded_categories(settings)) == (AVERAGED, CLASSES)
    older = {name: value for name, value in settings.items() if name not in ("train.ema_decay", CATEGORIES)}
    assert recorded_config(older).train == replace(AVERAGED.train, ema_decay=0.0) and recorded_categories(older) == ()
    for changes, message in (
        ({"model.fpn_chanels": 8}, "fpn_chanels"),
        ({"model.norm": "none"}, r"model\.norm: expected"),
    ):
        with pytest.raises(ConfigError, match=message):
            recorded_config(settings | changes)


def test_a_run_that_trains_is_left_alone(workdir: Path, tmp_path: Path) -> None:
    unfinished = workdir / "checkpoints" / "9.orbax-checkpoint-tmp-1"
    unfinished.mkdir()
    with claim_workdir(workdir):
        assert write_kept_weights(workdir, "last", tmp_path / "weights").step == 8
        with pytest.raises(ConfigError, match="Another process"):
            write_kept_weights(workdir, "last", workdir / "weights")
    assert unfinished.is_dir()
    unfinished.rmdir()


def run_command(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["mrcnn weights", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        command_line.run(write_weights.main)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command_writes_replaces_and_notes_other_files(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "weights"
    assert run_command("--workdir", workdir, "--step", "best", "--to", to, monkeypatch=monkeypatch) == 0
    assert f"Wrote the weights of step 4 (AP 0.700 in the run's evaluation) to {to}\n" in capsys.readouterr().out
    assert run_command("--workdir", workdir, "--step=6", "--to", to, monkeypatch=monkeypatch) == 0
    assert f"Wrote the weights of step 6 (AP 0.300 in the run's evaluation) to {to}, repl" in capsys.readouterr().out
    (workdir / "evaluation.json").write_text('{"step": 6}')
    own = workdir / "weights"
    assert run_command("--workdir", workdir, "--step=4", "--to", own, monkeypatch=monkeypatch) == 0
    assert f"Note: {workdir}/evaluation.json has the scores of step 6, not of these" in capsys.readouterr().out
    assert read_run_folder(workdir).weights_step == 4
    assert run_command("--workdir", workdir, "--step=8", "--to", own, monkeypatch=monkeypatch) == 0


@pytest.mark.parametrize(
    ("step", "code", "message"),
    [
        ("2", 2, "has no checkpoint of step 2. Kept: steps 4, 6, 8."),
        ("-1", 2, "--step: expected best, last or the number of a step, got '-1'. Kept: steps 4, 6, 8."),
        ("newest", 2, "got 'newest'. Kept: steps 4, 6, 8."),
    ],
)
def test_steps_that_are_not_kept_are_refused_with_those_that_are(
    workdir: Path,
    step: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--workdir", workdir, f"--step={step}", "--to", tmp_path / "weights"]
    assert run_command(*arguments, monkeypatch=monkeypatch) == code
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert not (tmp_path / "weights").exists()


def test_other_folders_are_not_replaced(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for to in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt", workdir):
        with pytest.raises(ConfigError, match="exists and is no weights folder"):
            write_kept_weights(workdir, "last", to)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_damage_and_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no checkpoint"):
        write_kept_weights(tmp_path / "none", "last", tmp_path / "weights")
    assert not (tmp_path / "none").exists()
    save_run(tmp_path, PLAIN)
    largest = max((tmp_path / "checkpoints" / "8").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(DataError, match=r"step 8 in .* is damaged \(.*\)\. Other kept checkpoints: steps 4, 6\."):
        write_kept_weights(tmp_path, "last", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    (tmp_path / "checkpoints" / "6" / "description" / "metadata").write_text("{}")
    with pytest.raises(DataError, match=r"step 6 in .* is damaged"):  # it might be the best
        write_kept_weights(tmp_path, "best", tmp_path / "weights")


def test_without_an_evaluation_none_is_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    settings = run_settings(PLAIN, fingerprint="abc", num_records=5, categories=CLASSES)
    checkpoints.save(3, make_state(PLAIN, 3), settings, None)
    checkpoints.close()
    with pytest.raises(ConfigError, match=r"None of the checkpoints .* Kept: step 3\. Pass --step last"):
        write_kept_weights(tmp_path, "best", tmp_path / "weights")


def test_checkpoints_of_earlier_versions_need_the_names_of_their_classes(tmp_path: Path) -> None:
    save_run(tmp_path, PLAIN, categories=())
    with pytest.raises(DataError, match="by an earlier version, without the names of the categories"):
        write_kept_weights(tmp_path, "last", tmp_path / "weights")
