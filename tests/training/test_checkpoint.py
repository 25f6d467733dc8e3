"""Checkpoints: what comes back is what was saved, or is refused."""

import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrcnn_jax.config import Config
from mrcnn_jax.errors import ConfigError, DataError, NumericalError, StorageError
from mrcnn_jax.named_leaves import named_leaves
from mrcnn_jax.training.checkpoint import Checkpoints, EvaluationRecord
from mrcnn_jax.training.settings import check_settings, run_settings

SETTINGS = {"model.backbone": "resnet18", "train.batch_size": 2, "train.num_steps": 10, "data.canvases": [[64, 64]]}
OPTIMIZER = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(lambda step: 0.1, momentum=0.9))


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: optax.OptState


def make_state(step: int) -> State:
    """A state whose every value is a function of the step."""
    kernel = np.random.default_rng(step).normal(size=(40, 50)).astype(np.float32)
    params = {"conv": {"kernel": jnp.asarray(kernel), "bias": jnp.full((50,), step, jnp.bfloat16)}}
    return State(jnp.asarray(step, jnp.int32), params, OPTIMIZER.init(params))


def save_steps(folder: Path, *steps: int, keep: int = 2, scores: dict[int, float] | None = None) -> None:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        score = (scores or {}).get(step)
        evaluated = None if score is None else EvaluationRecord(step, {"segm": {"AP": score}}, score)
        checkpoints.save(step, make_state(step), SETTINGS, evaluated)
    checkpoints.close()


def restore(folder: Path, settings: dict = SETTINGS):
    checkpoints = Checkpoints(folder, keep=2)
    try:
        return checkpoints.restore(jax.eval_shape(lambda: make_state(0)), settings)
    finally:
        checkpoints.close()


def assert_equal(restored: State, expected: State) -> None:
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for name, leaf in named_leaves(expected).items():
        found = named_leaves(restored)[name]
        assert found.dtype == leaf.dtype, name
        np.testing.assert_array_equal(found, np.asarray(leaf), err_msg=name)


def test_restores_what_was_saved(tmp_path):
    assert restore(tmp_path) is None
    save_steps(tmp_path, 1, 2, scores={2: 0.5})
    restored = restore(tmp_path)
    assert restored.step == 2
    assert restored.evaluated == EvaluationRecord(2, {"segm": {"AP": 0.5}}, 0.5)
    assert restored.settings == SETTINGS
    assert_equal(restored.state, make_state(2))


def test_saved_state_survives_donation_of_its_buffers(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    state = make_state(3)
    expected = make_state(3)
    checkpoints.save(3, state, SETTINGS, None)
    jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0, state), donate_argnums=0)(state)
    checkpoints.close()
    assert_equal(restore(tmp_path).state, expected)


def test_keeps_the_latest_and_the_best(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 4, 5, scores={1: 0.1, 2: 0.9, 3: 0.3})
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 4, 5]
    checkpoints = Checkpoints(tmp_path, keep=1)  # knows the scores of an earlier process
    checkpoints.restore(make_state(0), SETTINGS)
    checkpoints.save(6, make_state(6), SETTINGS, None)
    checkpoints.close()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 6]


def flip_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def data_files(step_folder: Path) -> list[Path]:
    return sorted(path for path in step_folder.rglob("*") if path.is_file() and path.stat().st_size > 0)


def test_flipped_bit_in_the_arrays_is_refused_and_the_previous_step_used(tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    save_steps(folder, 1, 2)
    largest = max(data_files(folder / "2"), key=lambda path: path.stat().st_size)
    flip_bit(largest, random.Random(0))
    with caplog.at_level(logging.WARNING, logger="mrcnn_jax"):
        restored = restore(folder)
    assert restored.step == 1
    assert_equal(restored.state, make_state(1))
    assert "step 2" in caplog.text and "damaged" in caplog.text
    assert (tmp_path / "checkpoints_refused" / "2").is_dir()
    save_steps(folder, 2)  # the step can be saved again
    assert_equal(restore(folder).state, make_state(2))


def test_no_damage_anywhere_restores_silently_wrong(tmp_path):
    rng = random.Random(1)
    original = tmp_path / "original"
    save_steps(original, 1, 2)
    files = [path.relative_to(original) for path in data_files(original / "2")]
    detected = 0
    for trial in range(40):
        folder = tmp_path / "run" / "checkpoints"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(original, folder)
        path = folder / rng.choice(files)
        if trial < 30:
            flip_bit(path, rng)
        elif trial % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        restored = restore(folder)
        assert_equal(restored.state, make_state(restored.step))
        detected += restored.step == 1
    assert detected > 5  # the rest hit bytes that Orbax does not read


def test_a_step_that_is_not_finite_is_not_restored(tmp_path, monkeypatch):
    monkeypatch.setattr("mrcnn_jax.training.checkpoint.find_not_finite", lambda leaves: [])  # saving refuses it, too
    save_steps(tmp_path / "checkpoints", 1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.save(2, make_state(2).replace(params={"w": jnp.array([1.0, jnp.nan])}), SETTINGS, None)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    target = jax.eval_shape(lambda: make_state(0).replace(params={"w": jnp.zeros(2)}))
    with pytest.raises(DataError, match=r"step 2: params/w and 0 other leaves contain NaN or infinity; step 1: "):
        checkpoints.restore(target, SETTINGS)
    checkpoints.close()


def test_all_steps_damaged_is_an_error_that_moves_nothing(tmp_path):
    folder = tmp_path / "checkpoints"
    save_steps(folder, 1, 2)
    for step in (1, 2):
        (folder / str(step) / "description" / "metadata").write_text("{}")
    with pytest.raises(DataError, match=r"step 2: .*step 1: "):
        restore(folder)
    assert (folder / "1").is_dir() and (folder / "2").is_dir()


def test_another_dtype_or_shape_is_refused_instead_of_cast(tmp_path):
    save_steps(tmp_path / "checkpoints", 1)
    target = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), make_state(0))
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    with pytest.raises(DataError, match=r"step is int32\[\] instead of bfloat16\[\]"):
        checkpoints.restore(target, SETTINGS)
    checkpoints.close()


@pytest.mark.parametrize(
    "name",
    [
        "model.backbone",
        "train.batch_size",
        "train.ema_decay",
        "data.canvases",
        "data.scale_jitter",
        "data.copy_paste_probability",
        "data.repeat_threshold",
        "dataset.fingerprint",
    ],
)
def test_changed_settings_are_refused_by_name(tmp_path, name):
    save_steps(tmp_path, 1)
    with pytest.raises(ConfigError, match=name):
        restore(tmp_path, SETTINGS | {name: "other"})


def test_cosmetic_settings_may_change(tmp_path):
    save_steps(tmp_path, 1)
    assert restore(tmp_path, SETTINGS | {"train.num_steps": 20, "train.log_every": 3}).step == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_state_that_is_not_finite_is_never_saved(tmp_path, value):
    checkpoints = Checkpoints(tmp_path, keep=2)
    state = make_state(1)
    state.params["conv"]["bias"] = state.params["conv"]["bias"].at[3].set(value)
    with pytest.raises(NumericalError, match=r"Step 1 was not saved: params/conv/bias and \d+ other leaves"):
        checkpoints.save(1, state, SETTINGS, None)
    checkpoints.close()
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fills_up_is_a_storage_error_and_leaves_no_unfinished_step(tmp_path):
    """A limit on the size of files stands in for a full disk: both make a write fail half way."""
    save_steps(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignore = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        checkpoints = Checkpoints(tmp_path, keep=2)
        with pytest.raises(StorageError, match=r"could not be saved in .* MiB are free"):
            checkpoints.save(2, make_state(2), SETTINGS, None)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert restore(tmp_path).step == 1


SAVING_PROCESS = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_checkpoint import SETTINGS, make_state
from mrcnn_jax.training.checkpoint import Checkpoints
checkpoints = Checkpoints(Path({folder!r}), keep=1)
restored = checkpoints.restore(make_state(0), SETTINGS)
step = restored.step if restored else 0
print("READY", flush=True)
while True:
    step += 1
    checkpoints.save(step, make_state(step), SETTINGS, None)
    checkpoints.wait()
    print(step, flush=True)
"""


def test_kill_while_saving_loses_no_committed_step(tmp_path):
    folder = tmp_path / "checkpoints"
    code = SAVING_PROCESS.format(tests=str(Path(__file__).parent), folder=str(folder))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    rng, last_saved = random.Random(2), 0
    for _ in range(3):
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout.readline() == "READY\n"
            time.sleep(rng.uniform(0.05, 0.4))
            process.kill()
            printed = process.stdout.read().split()
        last_saved = int(printed[-1]) if printed else last_saved
        restored = restore(folder)
        assert (restored.step if restored else 0) >= last_saved
        if restored:
            assert_equal(restored.state, make_state(restored.step))
        assert not list(folder.glob("*tmp*"))


def test_description_is_plain_json(tmp_path):
    save_steps(tmp_path, 7)
    description = json.loads((tmp_path / "7" / "description" / "metadata").read_text())
    assert description["step"] == 7
    assert description["leaves"]["params/conv/kernel"]["shape"] == [40, 50]


def test_runs_from_before_a_setting_existed_have_its_default() -> None:
    current = run_settings(Config(), fingerprint="f", num_records=1)
    older = {name: value for name, value in current.items() if name != "model.anchors_rounded"}
    check_settings(older, current, "step 3")
    with pytest.raises(ConfigError, match=r"model\.anchors_rounded False -> True"):
        check_settings(older, {**current, "model.anchors_rounded": True}, "step 3")
