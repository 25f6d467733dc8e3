"""Kept training steps: loaded when all that they are made of is the same, compiled anew in every other case."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mrcnn_jax.config import Config, TrainConfig
from mrcnn_jax.training import programs
from mrcnn_jax.training.programs import load_or_compile, programs_folder
from mrcnn_jax.training.sharding import DATA_AXIS, make_mesh, replicated

DEVICES = jax.devices()[:2]
MESH = make_mesh(DEVICES)
WHOLE, SPLIT = replicated(MESH), NamedSharding(MESH, PartitionSpec(DATA_AXIS))


def make_arguments(size: int = 4, dtype: Any = jnp.float32) -> tuple:
    state = {"w": jax.device_put(jnp.ones(3, dtype), WHOLE)}
    batch = jax.device_put(jnp.arange(size * 3, dtype=jnp.float32).reshape(size, 3), SPLIT)
    return state, batch, jax.device_put(jax.random.key(0), WHOLE)


def step(state: dict, batch: jax.Array, key: jax.Array) -> tuple[dict, dict]:
    loss = jnp.sum(batch @ state["w"]) + jax.random.uniform(key)
    return {"w": state["w"] - 0.1 * batch.mean(axis=0)}, {"loss": loss}


class Step:
    """A jitted step that counts how often it is compiled."""

    def __init__(self) -> None:
        self.compilations = 0
        self.jitted = jax.jit(step, in_shardings=(WHOLE, SPLIT, WHOLE), out_shardings=WHOLE, donate_argnums=0)

    def lower(self, *arguments: Any) -> Any:
        self.compilations += 1
        return self.jitted.lower(*arguments)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "programs" / "step.bin"


@pytest.fixture
def compilations(file: Path) -> Callable[..., int]:
    """How many compilations a restart takes, with arguments or settings that may differ; a step was kept before."""
    load_or_compile(file, Step(), make_arguments(), DEVICES, Config())
    assert file.exists()

    def restart(arguments: tuple | None = None, config: Config | None = None) -> int:
        function = Step()
        load_or_compile(file, function, arguments or make_arguments(), DEVICES, config or Config())
        return function.compilations

    return restart


def test_a_loaded_step_is_the_compiled_one(file):
    results = []
    for compiled in (1, 0):
        function, (state, batch, key) = Step(), make_arguments()
        program = load_or_compile(file, function, (state, batch, key), DEVICES, Config())
        assert function.compilations == compiled
        state, _ = program(state, batch, key)
        results.append(program(state, batch, key))
    jax.tree.map(np.testing.assert_array_equal, *results)
    jax.tree.map(np.testing.assert_allclose, results[0], step(step(*make_arguments())[0], batch, key))
    assert results[1][0]["w"].sharding == WHOLE
    assert [path.name for path in file.parent.iterdir()] == ["step.bin"]


def test_a_loaded_step_takes_its_arguments_over_and_refuses_others(file, compilations):
    assert compilations() == 0
    program = load_or_compile(file, Step(), make_arguments(), DEVICES, Config())
    state, batch, key = make_arguments()
    program(state, batch, key)
    assert state["w"].is_deleted()  # donated
    with pytest.raises(TypeError):
        program(*make_arguments(size=8))


def test_what_differs_is_compiled(compilations, monkeypatch):
    assert compilations(arguments=make_arguments(size=8)) == 1
    assert compilations(arguments=make_arguments(dtype=jnp.bfloat16)) == 1
    assert compilations(config=Config(train=TrainConfig(learning_rate=0.5))) == 1
    assert compilations() == 1  # the newest is kept
    assert compilations() == 0
    with jax.default_matmul_precision("highest"):
        assert compilations() == 1
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    assert compilations() == 1
    monkeypatch.setattr(programs.importlib.metadata, "version", lambda name: "0.0.0")
    assert compilations() == 1
    monkeypatch.setattr(Path, "read_text", lambda path: f"another source of {path.name}")
    assert compilations() == 1
    assert compilations() == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content.replace(b"\n", b" ", 1),
        lambda content: content.split(b"\n", 1)[0] + b"\n" + b"not a program",
    ],
)
def test_a_damaged_file_counts_as_none(file, compilations, damage):
    file.write_bytes(damage(file.read_bytes()))
    assert compilations() == 1
    assert compilations() == 0


def test_a_file_that_cannot_be_written_stops_nobody(tmp_path):
    (tmp_path / "programs").write_text("a file where the folder belongs")
    function = Step()
    program = load_or_compile(tmp_path / "programs" / "step.bin", function, make_arguments(), DEVICES, Config())
    assert function.compilations == 1 and "loss" in program(*make_arguments())[1]


def test_all_processes_load_or_none(compilations, monkeypatch):
    monkeypatch.setattr(programs, "gather_bytes", lambda own: [own, b""])
    assert compilations() == 1
    monkeypatch.setattr(programs, "gather_bytes", lambda own: [own, b"found"])
    assert compilations() == 0


def test_only_the_first_process_writes(file, monkeypatch):
    monkeypatch.setattr(programs, "is_primary", lambda: False)
    load_or_compile(file, Step(), make_arguments(), DEVICES, Config())
    assert not file.exists()


def test_each_kind_of_machine_has_its_folder(tmp_path, monkeypatch):
    own = programs_folder(tmp_path)
    assert own.is_relative_to(tmp_path / "programs") and own == programs_folder(tmp_path)
    monkeypatch.setattr(Path, "read_text", lambda path: "flags : sse\nflags : sse")
    assert programs_folder(tmp_path) != own
