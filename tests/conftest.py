"""Settings of all tests: CPU, eight virtual devices, and JAX's and jaxtyping's strict modes.

They are set before JAX starts, and before the modules that they check are imported. With FLAGS_OF_USERS=1 in the
environment XLA gets the flags of users alone: one device, and the optimisation that they have.

Compiled programs are kept while the tests run, for other tests and pytest's other processes.
"""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

from mrcnn_jax import command_names, known_faults
from tests.xla import FAST_TO_COMPILE

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ.get("FLAGS_OF_USERS") != "1":
    _FLAGS = f"--xla_force_host_platform_device_count=8 {FAST_TO_COMPILE}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
known_faults.set_flags()
CACHE = "MRCNN_JAX_TESTS_CACHE"
if CACHE not in os.environ:  # in pytest's first process
    os.environ[CACHE] = tempfile.mkdtemp(prefix="mrcnn_jax-tests-")
    atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Tracing makes many objects and few cycles: at its own threshold Python searches for cycles far too often.
gc.set_threshold(50_000)
jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# Checks the shapes and dtypes in the annotations of every call, also while tracing.
install_import_hook(["mrcnn_jax.ops", "mrcnn_jax.detection"], "beartype.beartype")


@pytest.fixture(autouse=True)
def no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages name commands as if none had been started, whatever a test before this one started."""
    monkeypatch.setattr(command_names, "_typed", ["mrcnn"])


@pytest.fixture
def one_block(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stages of one block. Variables are kept by config, which does not name the number of blocks."""
    from mrcnn_jax.config.backbones import BACKBONES
    from mrcnn_jax.models import mask_rcnn
    from tests import tiny

    for name, layout in BACKBONES.items():
        monkeypatch.setitem(BACKBONES, name, layout._replace(blocks=(1, 1, 1, 1)))
    kept = (tiny.make_variables, mask_rcnn.variable_shapes, mask_rcnn.jit_init)
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests that share a costly fixture first: at the end pytest's processes would share them out, and both
    compute it."""
    items.sort(key=lambda item: not item.path.stem.startswith("test_golden"))
