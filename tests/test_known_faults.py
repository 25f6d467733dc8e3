"""The table of faulty releases: flags are set for them alone, never over the user's, and before JAX is imported."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from mrcnn_jax.detection.image_anchors import LevelAnchors
from mrcnn_jax.detection.proposals import propose
from mrcnn_jax.known_faults import (
    ATOMIC_ADDITIONS,
    FAULTS,
    LOOPS_IN_GRAPHS,
    NO_REDUCTIONS,
    XLA_FLAGS,
    YNN_FLAG,
    find_faults,
    set_flags,
    warn_once,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("jaxlib", "flags"),
    [
        ("0.10.1", []),
        ("0.10.2", [NO_REDUCTIONS, ATOMIC_ADDITIONS, LOOPS_IN_GRAPHS]),
        ("0.11.0", [NO_REDUCTIONS, ATOMIC_ADDITIONS, LOOPS_IN_GRAPHS]),
        ("0.11.1", [LOOPS_IN_GRAPHS]),
        ("0.12.0.1", [LOOPS_IN_GRAPHS]),
        ("0.13.0", []),
    ],
)
def test_flags_are_those_of_the_release(jaxlib: str, flags: list[str]) -> None:
    environ: dict[str, str] = {}
    set_flags(environ, jaxlib)
    assert environ.get(XLA_FLAGS, "").split() == flags


def test_flags_are_added_to_the_users_and_never_replace_them(tmp_path: Path) -> None:
    file = tmp_path / "flags.txt"
    file.write_text("--xla_one=1\n")
    gpu = f"{ATOMIC_ADDITIONS} {LOOPS_IN_GRAPHS}"
    for before, after in [
        ("--xla_one=1", f"--xla_one=1 {NO_REDUCTIONS} {gpu}"),
        (f"{YNN_FLAG}= --xla_one=1", f"{YNN_FLAG}= --xla_one=1 {gpu}"),
        (f"{YNN_FLAG}_other=1", f"{YNN_FLAG}_other=1 {NO_REDUCTIONS} {gpu}"),
        ("--xla_gpu_enable_command_buffer=", f"--xla_gpu_enable_command_buffer= {NO_REDUCTIONS} {ATOMIC_ADDITIONS}"),
        (str(file), str(file)),
    ]:
        environ = {XLA_FLAGS: before}
        set_flags(environ, "0.10.2")
        set_flags(environ, "0.10.2")
        assert environ[XLA_FLAGS] == after


def test_the_installed_release_knows_its_flags() -> None:
    environ = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environ.pop(XLA_FLAGS, None)
    set_flags(environ)
    program = "import jax; assert float(jax.jit(lambda x: x + 1)(1.0)) == 2"  # XLA ends at a flag that it does not know
    subprocess.run([sys.executable, "-c", program], env=environ, check=True, capture_output=True)


def test_faults_are_those_of_the_platform() -> None:
    assert {fault.platform for fault in find_faults("0.10.2", "cpu")} == {"cpu", "all"}
    assert {fault.platform for fault in find_faults("0.11.0", "gpu")} == {"gpu", "all"}
    assert all(fault.source.startswith("https://github.com/") and fault.way_out and fault.seen for fault in FAULTS)


@pytest.mark.parametrize("flags", [None, "--xla_one=1"])
def test_scripts_set_the_flags_before_jax_is_imported(flags: str | None) -> None:
    environ = {name: value for name, value in os.environ.items() if name != XLA_FLAGS}
    environ |= {XLA_FLAGS: flags} if flags else {}
    program = (
        "import os, sys; sys.modules['tyro'] = None\n"  # what follows the flags is not reached
        "from mrcnn_jax.main import run_command\n"
        "try: run_command('train', [])\n"
        "except SystemExit: print('jax' in sys.modules, os.environ.get('XLA_FLAGS'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, check=True, capture_output=True, text=True
    )
    expected = dict(environ)
    set_flags(expected)
    assert run.stdout.strip() == f"False {expected.get(XLA_FLAGS)}"


def test_a_program_without_the_flag_warns_once_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrcnn_jax.known_faults.installed_jaxlib", lambda: "0.10.2")
    monkeypatch.setenv(XLA_FLAGS, "")
    warn_once.cache_clear()

    def make_proposals() -> None:
        anchors = LevelAnchors(jnp.zeros((6, 4)), jnp.ones(6, bool))
        options = {"pre_nms_top_n": 4, "post_nms_top_n": 4, "nms_threshold": 0.5}
        jax.eval_shape(
            lambda x: propose([x], [jnp.zeros((2, 12))], [anchors], jnp.ones(2, jnp.int32), **options), jnp.zeros(6)
        )

    with pytest.warns(RuntimeWarning, match="39103") as caught:
        make_proposals()
        make_proposals()
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


def test_no_warning_with_the_flag_or_on_other_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrcnn_jax.known_faults.installed_jaxlib", lambda: "0.10.2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setenv(XLA_FLAGS, "")
        warn_once.__wrapped__("gpu")
        monkeypatch.setenv(XLA_FLAGS, NO_REDUCTIONS)
        warn_once.__wrapped__("cpu")
