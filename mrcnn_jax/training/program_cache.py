"""A cache of compiled training steps in the workdir, which a restart loads without tracing or compiling them again.

JAX's own cache is used only after a program has been traced and lowered, which takes half of a restart on a CPU. A
cached step is loaded only if everything that it depends on is unchanged: the package's source, libraries, settings,
shapes and devices.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

import jax
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from mrcnn_jax.config import Config
from mrcnn_jax.distributed import gather_bytes, is_primary
from mrcnn_jax.heap import trim_heap
from mrcnn_jax.json_files import digest_json, replace_file

LIBRARIES = ("jax", "flax", "optax", "numpy", "libtpu", "nvidia")
ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
OF_A_PROCESS = ("_dir", "_visible_devices")
"""Endings of names of JAX's settings that may differ between processes and do not change a program."""
CACHE_HIT = "/jax/compilation_cache/cache_hits"
"""Event that JAX records when it finds a program in its own cache."""

logger = logging.getLogger(__name__)


def _digest_code() -> str:
    """Returns the SHA-256 of the package's source and of the versions of the libraries that compile it."""
    package = Path(__file__).resolve().parent.parent
    files = sorted(path for path in package.rglob("*.py") if not path.name.startswith("."))
    sources = {str(path.relative_to(package)): path.read_text() for path in files}
    installed = {str(each.name).lower(): each.version for each in importlib.metadata.distributions()}
    versions = {name: version for name, version in installed.items() if name.startswith(LIBRARIES)}
    return digest_json([sources, versions])


CODE = _digest_code()
"""Digest of the code at import, since files may change while the process runs."""


def programs_folder(workdir: Path) -> Path:
    """Returns the folder for programs of this machine; those for a CPU may use instructions that others lack."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))]
    kind = hashlib.sha256("".join(flags[:1]).encode()).hexdigest()[:8]
    return workdir.absolute() / "programs" / f"{platform.machine()}-{kind}"


def load_or_compile(
    file: Path, function: Any, arguments: tuple[Any, ...], devices: list[jax.Device], config: Config
) -> jax.stages.Compiled:
    """Returns a jitted training step compiled for these arguments on these devices, and stores it in `file`.

    The step takes (state, ...) and returns (state, metrics by name). It is loaded if all processes can load it; process
    0 writes it, as in JAX's cache. A file that is damaged or cannot be read or written is ignored. Files contain
    machine code and need the same trust as the program itself.
    """
    origin = digest_origin(arguments, devices, config)
    program = _load(file, origin, arguments, devices)
    # Either all processes compile or none, because they share the work of compiling for GPUs.
    if not all(gather_bytes(b"found" if program is not None else b"")) or program is None:
        program, is_new = _compile(function, arguments)
        # A CPU program that was loaded from JAX's cache would be serialized without its code.
        if is_primary() and is_new:
            _keep(file, origin, arguments, program)
    return program


def digest_origin(arguments: tuple[Any, ...], devices: list[jax.Device], config: Config) -> str:
    """Returns the SHA-256 of everything that a compiled training step depends on."""
    settings = {name: repr(value) for name, value in jax.config.values.items() if not name.endswith(OF_A_PROCESS)}
    leaves = [
        f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype} {leaf.sharding}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(arguments)
    ]
    places = ("id", "process_index", "device_kind", "coords", "slice_index")
    parts = [
        CODE,
        devices[0].client.platform_version,
        [[repr(getattr(device, name, None)) for name in places] for device in devices],
        {name: _read_flags(os.environ.get(name, "")) for name in ENVIRONMENT},
        settings,
        [dataclasses.asdict(part) for part in (config.model, config.targets, config.train)],
        leaves,
    ]
    return digest_json(parts)


def _read_flags(flags: str) -> str:
    """Returns the flags, or the content of the file that is named instead of flags."""
    named = flags and not flags.lstrip().startswith("-") and Path(flags).is_file()
    return Path(flags).read_text() if named else flags


def _compile(function: Any, arguments: tuple[Any, ...]) -> tuple[jax.stages.Compiled, bool]:
    """Returns the program, and whether it was compiled instead of loaded from JAX's cache."""
    hits = []

    def listen(event: str, **_: Any) -> None:
        if event == CACHE_HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        program = function.lower(*arguments).compile()
    finally:
        jax.monitoring.unregister_event_listener(listen)
    trim_heap()
    return program, not hits


def _keep(file: Path, origin: str, arguments: tuple[Any, ...], program: jax.stages.Compiled) -> None:
    """Writes a line of JSON, with the program's origin, checksum and metric names, followed by the program."""
    try:
        content, _, returned = serialize(program)
        _, metrics = jax.tree.unflatten(returned, range(returned.num_leaves))
        names = sorted(metrics)
        if returned != _structure_returned(arguments, names):
            raise ValueError("it does not return (state, metrics by name)")
        header = {"origin": origin, "sha256": hashlib.sha256(content).hexdigest(), "metrics": names}
        replace_file(file, json.dumps(header).encode() + b"\n" + content)
    except Exception as error:  # not all backends can serialize programs; a full disk must not stop the run either
        logger.warning("The compiled step could not be stored: %s", error)


def _load(file: Path, origin: str, arguments: tuple[Any, ...], devices: list[jax.Device]) -> jax.stages.Compiled | None:
    try:
        line, _, content = file.read_bytes().partition(b"\n")
        header = json.loads(line)
        if header["origin"] != origin or header["sha256"] != hashlib.sha256(content).hexdigest():
            return None
        taken, returned = jax.tree.structure((arguments, {})), _structure_returned(arguments, header["metrics"])
        return deserialize_and_load(content, taken, returned, execution_devices=devices)
    except Exception as error:
        if file.exists():
            logger.warning("The compiled step in %s could not be loaded: %s", file, error)
        return None


def _structure_returned(arguments: tuple[Any, ...], metrics: list[str]) -> Any:
    return jax.tree.structure((arguments[0], dict.fromkeys(metrics, 0)))
