"""The layout's rules, read from the source: who imports whom, what the core needs, where jit may stand, file length."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "mrcnn_jax"
SOURCES = sorted(path for folder in (PACKAGE, "scripts", "configs") for path in (ROOT / folder).rglob("*.py"))
PACKAGE_SOURCES = [path for path in SOURCES if path.is_relative_to(ROOT / PACKAGE)]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 300

BASE = {"config", "structures", "categories", "errors", "integers"}
# What each layer may import of ours besides itself. Imports go down only.
ALLOWED = {
    "__init__": {"config", "data", "errors", "evaluation", "inference", "presets", "training", "weights"},
    "errors": set(),
    "known_faults": set(),
    "command_names": set(),
    "run_folder": {"command_names"},
    "presets": {"config", "errors"},
    "main": {"command_names", "known_faults", "__version__"},
    "__main__": {"main"},
    "heap": set(),
    "integers": set(),
    "json_files": {"errors"},
    "config": set(),
    "structures": set(),
    "categories": set(),
    "named_leaves": set(),
    "platforms": set(),
    "mesh": set(),
    "distributed": {"config", "errors"},
    "ops": {"platforms", "integers"},
    "models": {"ops", "config", "errors", "platforms", "integers"},
    "detection": {"ops", "known_faults", *BASE},
    "data": {"command_names", *BASE},
    "weights": {"models", "named_leaves", "json_files", "run_folder", *BASE},
    "training": {
        "command_names",
        "detection",
        "models",
        "named_leaves",
        "mesh",
        "distributed",
        "heap",
        "json_files",
        "run_folder",
        *BASE,
    },
    "inference": {
        "detection",
        "models",
        "data",
        "weights",
        "mesh",
        "json_files",
        "named_leaves",
        "known_faults",
        *BASE,
    },
    "evaluation": {"inference", "data", "weights", "mesh", "distributed", *BASE},
    "recipe": {"data", *BASE},
    "visualization": BASE,
    "serving": {"inference", "data", "visualization", *BASE},
    "inspection": {"data", "ops", "visualization", "json_files", *BASE},
    "profiling": BASE,
    "selftest": {"known_faults", "ops", "models", "detection", "mesh", *BASE},
}
ALLOWED["cli"] = set(ALLOWED) - {"main", "__main__"}
# The training loop, its evaluations and its weights join the upper layers.
LOOP = {
    "training.loop",
    "training.validation",
    "training.kept_weights",
    "training.weights_loss",
    "training.data_checks",
    "training.lost_objects",
}
ALLOWED_IN_LOOP = ALLOWED["training"] | {"data", "inference", "evaluation", "weights", "visualization"}

CORE = (
    "ops",
    "models",
    "detection",
    "structures",
    "config",
    "errors",
    "named_leaves",
    "platforms",
    "integers",
    "known_faults",
    "training.step",
)
CORE_LIBRARIES = {"jax", "flax", "optax", "numpy", "jaxtyping"}
MAY_JIT = (
    "training.training_program",
    "training.loop",  # moves arrays alone
    "inference.prediction_program",
    "inference.exported_loader",  # runs in a process without this package
    "inference.export_onnx",  # computes what converted parts are compared with
    "cli",
    "selftest",
    "models.mask_rcnn",  # init_variables alone: eager initialisation would run the whole network
)
UNSAFE_CALLS = {"eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "marshal.load"}
LOADS_PROGRAMS = "jax.experimental.serialize_executable"
MAY_LOAD_PROGRAMS = "training.program_cache"  # its files are machine code of our own, as those of JAX's cache are


def module_name(path: Path) -> str:
    """`ops.nms` for mrcnn_jax/ops/nms.py."""
    return ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)


def is_in(module: str, layers: tuple[str, ...] | set[str]) -> bool:
    return any(module == layer or module.startswith(f"{layer}.") for layer in layers)


def imported_modules(source: str) -> Iterator[str]:
    """Dotted names that the source imports anywhere, functions included; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted_names(source: str) -> Iterator[str]:
    """Every name and attribute chain of the source, such as `jax.jit`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Attribute, ast.Name)):
            yield ast.unparse(node)


def forbidden_imports(module: str, source: str) -> list[str]:
    """Imports of ours, or of scripts, that this module of the package may not make."""
    layer = module.split(".")[0]
    allowed = (ALLOWED_IN_LOOP if is_in(module, LOOP) else ALLOWED[layer]) | {layer}
    imported = [name.split(".") for name in imported_modules(source)]
    ours = [".".join(parts) for parts in imported if parts[0] == PACKAGE and parts[1] not in allowed]
    return ours + [".".join(parts) for parts in imported if parts[0] in ("scripts", "_checkout", "configs", "tests")]


def foreign_libraries(source: str) -> set[str]:
    roots = {name.split(".")[0] for name in imported_modules(source)}
    return roots - set(sys.stdlib_module_names) - CORE_LIBRARIES - {PACKAGE}


def unsafe_calls(source: str) -> set[str]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = {ast.unparse(call.func) for call in calls} & UNSAFE_CALLS
    imported = set(imported_modules(source)) & UNSAFE_CALLS
    keywords = {ast.unparse(keyword) for call in calls for keyword in call.keywords if keyword.arg == "allow_pickle"}
    return found | imported | {keyword for keyword in keywords if keyword != "allow_pickle=False"}


def loads_programs(source: str) -> bool:
    return any(f"{name}.".startswith(f"{LOADS_PROGRAMS}.") for name in imported_modules(source))


def by_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PACKAGE_SOURCES, ids=by_path)
def test_imports_go_down_only(path: Path) -> None:
    assert forbidden_imports(module_name(path), path.read_text()) == []


@pytest.mark.parametrize("path", [p for p in PACKAGE_SOURCES if is_in(module_name(p), CORE)], ids=by_path)
def test_core_needs_only_jax_flax_optax_and_numpy(path: Path) -> None:
    assert foreign_libraries(path.read_text()) == set()


def test_presets_import_the_config_only() -> None:
    for path in (ROOT / "configs").glob("*.py"):
        ours = {name for name in imported_modules(path.read_text()) if name.startswith(PACKAGE)}
        assert ours and all(name.startswith(f"{PACKAGE}.config.") for name in ours), path.name


def test_data_layer_computes_on_the_host() -> None:
    for path in (ROOT / PACKAGE / "data").glob("*.py"):
        source = path.read_text()
        names = {*dotted_names(source), *imported_modules(source)}
        assert not any(f"{name}.".startswith(("jax.numpy.", "jax.lax.", "jnp.")) for name in names), path.name


def test_jit_stands_only_at_the_borders() -> None:
    for path in PACKAGE_SOURCES:
        if not is_in(module_name(path), MAY_JIT):
            source = path.read_text()
            names = {*dotted_names(source), *imported_modules(source)}
            assert not names & {"jax.jit", "jax.pmap", "nn.jit", "flax.linen.jit"}, path.name


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=by_path)
def test_files_are_short_and_say_what_they_hold(path: Path) -> None:
    assert path.name != "utils.py"
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(path.read_text())), "a module docstring is missing"


def test_no_two_modules_or_classes_of_the_package_share_a_name() -> None:
    modules = [path.stem for path in PACKAGE_SOURCES if path.stem != "__init__"]
    trees = [ast.parse(path.read_text()) for path in PACKAGE_SOURCES]
    classes = [node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    classes = [name for name in classes if name != "Arguments"]  # each command has its own
    for names in (modules, classes):
        assert [name for name, count in Counter(names).items() if count > 1] == []


def test_sources_never_run_what_a_file_says() -> None:
    for path in SOURCES:
        assert unsafe_calls(path.read_text()) == set(), path.name
        if path not in PACKAGE_SOURCES or module_name(path) != MAY_LOAD_PROGRAMS:
            assert not loads_programs(path.read_text()), path.name


def test_the_rules_notice_violations() -> None:
    assert forbidden_imports("ops.nms", "from mrcnn_jax.models import fpn") == ["mrcnn_jax.models.fpn"]
    assert forbidden_imports("models.fpn", "def f():\n    import mrcnn_jax.data.coco") == ["mrcnn_jax.data.coco"]
    assert forbidden_imports("training.step", "from mrcnn_jax.data.coco import x") == ["mrcnn_jax.data.coco.x"]
    assert forbidden_imports("training.loop", "from mrcnn_jax.data.coco import x") == []
    assert forbidden_imports("data.coco", "import _checkout") == ["_checkout"]
    assert foreign_libraries("import cv2, os\nimport jax.numpy as jnp\nfrom flax import linen") == {"cv2"}
    assert unsafe_calls("import pickle\npickle.load(file)") == {"pickle.load"}
    assert unsafe_calls("from pickle import loads") == {"pickle.loads"}
    assert unsafe_calls("eval('1')\nmodel.eval()") == {"eval"}
    assert unsafe_calls("np.load(file, allow_pickle=True)") == {"allow_pickle=True"}
    assert loads_programs("from jax.experimental import serialize_executable")
    assert loads_programs("from jax.experimental.serialize_executable import deserialize_and_load")
    assert not loads_programs("from jax.experimental import topologies")
    assert "jax.jit" in set(dotted_names("f = jax.jit(g)"))
