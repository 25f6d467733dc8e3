"""Kept training steps: loaded when all that they are made of is the same, compiled anew in every other case."""

import dataclasses
import hashlib
import importlib.metadata
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec

from mrcnn_jax.config import Config, DataConfig, TrainConfig
from mrcnn_jax.mesh import DATA_AXIS, make_mesh, replicated
from mrcnn_jax.training import program_cache
from mrcnn_jax.training.program_cache import digest_origin, load_or_compile, programs_folder

DEVICES = jax.devices()[:2]
MESH = make_mesh(DEVICES)
WHOLE, SPLIT = replicated(MESH), NamedSharding(MESH, PartitionSpec(DATA_AXIS))


def make_arguments(size: int = 4, dtype: Any = jnp.float32, split: NamedSharding = SPLIT) -> tuple:
    state = {"w": jax.device_put(jnp.ones(3, dtype), WHOLE)}
    batch = jax.device_put(jnp.arange(size * 3, dtype=jnp.float32).reshape(size, 3), split)
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


@pytest.fixture(autouse=True)
def _without_cache() -> Iterator[None]:
    """No step here takes so long to compile that the tests' cache keeps it: what comes out of it is not kept again."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 60)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


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


@pytest.mark.parametrize("other", [{"size": 8}, {"dtype": jnp.bfloat16}])
def test_another_kind_of_argument_is_compiled(compilations, other):
    assert compilations() == 0
    assert compilations(arguments=make_arguments(**other)) == 1


@pytest.mark.parametrize(
    ("path", "value"), [("train.learning_rate", 0.5), ("model.num_classes", 3), ("targets.roi_samples", 8)]
)
def test_another_setting_is_compiled(compilations, path, value):
    part, name = path.split(".")
    config = dataclasses.replace(Config(), **{part: dataclasses.replace(getattr(Config(), part), **{name: value})})
    assert compilations(config=config) == 1
    assert compilations(config=config) == 0  # the newest is kept


def test_what_the_step_is_not_made_of_may_differ(compilations, monkeypatch):
    assert compilations(config=Config(data=DataConfig(train="elsewhere", num_threads=9))) == 0
    with jax.numpy_rank_promotion("warn"):
        assert compilations() == 1
    monkeypatch.setattr(program_cache, "OF_A_PROCESS", (*program_cache.OF_A_PROCESS, "_rank_promotion"))
    assert compilations() == 1
    with jax.numpy_rank_promotion("warn"):
        assert compilations() == 0


def test_another_precision_is_compiled(compilations):
    with jax.default_matmul_precision("highest"):
        assert compilations() == 1


@pytest.mark.parametrize("name", program_cache.ENVIRONMENT)
def test_other_flags_are_compiled(compilations, monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, "--xla_cpu_enable_fast_math=false")
    assert compilations() == 1
    flags = tmp_path / "flags"
    monkeypatch.setenv(name, str(flags))
    for text, expected in (("--a=1", 1), ("--a=1", 0), ("--a=2", 1)):
        flags.write_text(text)
        assert compilations() == expected


def test_another_sharding_is_another_origin():
    state, batch, key = make_arguments()
    origins = [digest_origin((state, jax.device_put(batch, each), key), DEVICES, Config()) for each in (SPLIT, WHOLE)]
    assert origins[0] != origins[1]


def test_another_machine_is_another_origin():
    client = SimpleNamespace(platform_version="1")
    device = {"id": 0, "process_index": 0, "device_kind": "v5e", "coords": (0, 0, 0), "client": client}
    others = [
        {"client": SimpleNamespace(platform_version="2")},
        {"coords": (0, 1, 0)},
        {"device_kind": "v4"},
        {"id": 2},
        {"process_index": 1},
        {"slice_index": 1},
    ]
    devices = [SimpleNamespace(**(device | other)) for other in ({}, *others)]
    assert len({digest_origin(make_arguments(), [each], Config()) for each in devices}) == len(devices)


def test_other_code_is_compiled(compilations, monkeypatch):
    assert program_cache._digest_code() == program_cache.CODE
    version, read_text = importlib.metadata.version("jax"), Path.read_text
    jax_alone = [SimpleNamespace(name="jax", version=version)]
    others = []
    for installed in (jax_alone, [SimpleNamespace(name="jax", version="0.0.0")]):
        monkeypatch.setattr(program_cache.importlib.metadata, "distributions", lambda installed=installed: installed)
        others.append(program_cache._digest_code())
    monkeypatch.setattr(Path, "read_text", lambda path: read_text(path) + "#" * (path.name == "step.py"))
    others.append(program_cache._digest_code())
    assert len({*others, program_cache.CODE}) == 4
    monkeypatch.undo()
    monkeypatch.setattr(program_cache, "CODE", others[0])
    assert compilations() == 1


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """JAX's cache, for programs however small."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path / "cache"),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_enable_compilation_cache": True,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for values in (settings, before):
        compilation_cache.reset_cache()
        for name, value in values.items():
            jax.config.update(name, value)
        if values is settings:
            yield tmp_path / "cache"
    compilation_cache.reset_cache()


def test_what_comes_out_of_the_cache_of_jax_is_not_kept(cache, file):
    """A CPU would write it down without its code: it could be loaded, and not be run."""
    results = []
    for learning_rate in (0.1, 0.2, 0.2, 0.1, 0.1):
        jax.clear_caches()  # as in another process
        config, (state, batch, key) = Config(train=TrainConfig(learning_rate=learning_rate)), make_arguments()
        program = load_or_compile(file, Step(), (state, batch, key), DEVICES, config)
        results.append(program(state, batch, key))
        jax.tree.map(np.testing.assert_array_equal, results[0], results[-1])
        origin = json.loads(file.read_bytes().partition(b"\n")[0])["origin"]
        assert origin == digest_origin(make_arguments(), DEVICES, Config(train=TrainConfig(learning_rate=0.1)))
    assert any(cache.iterdir())


def with_content(kept: bytes, content: bytes) -> bytes:
    """The file with another content and the digest of that."""
    header = json.loads(kept.partition(b"\n")[0]) | {"sha256": hashlib.sha256(content).hexdigest()}
    return json.dumps(header).encode() + b"\n" + content


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content.replace(b"jit_step", b"jit_stop"),
        lambda content: content.replace(b"\n", b" ", 1),
        lambda content: content.split(b"\n", 1)[0] + b"\n" + b"not a program",
        lambda content: with_content(content, b"not a program"),
        lambda content: with_content(content, pickle.dumps("no program either")),
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
    monkeypatch.setattr(program_cache, "gather_bytes", lambda own: [own, b""])
    assert compilations() == 1
    monkeypatch.setattr(program_cache, "gather_bytes", lambda own: [own, b"found"])
    assert compilations() == 0


def test_only_the_first_process_writes(file, monkeypatch):
    monkeypatch.setattr(program_cache, "is_primary", lambda: False)
    load_or_compile(file, Step(), make_arguments(), DEVICES, Config())
    assert not file.exists()


def test_each_kind_of_machine_has_its_folder(tmp_path, monkeypatch):
    own = programs_folder(tmp_path)
    assert own.is_relative_to(tmp_path / "programs") and own == programs_folder(tmp_path)
    monkeypatch.setattr(Path, "read_text", lambda path: "flags : sse\nflags : sse")
    assert programs_folder(tmp_path) != own
