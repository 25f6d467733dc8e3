"""Every reason for which something is repaired or left out is explained in the documentation."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "mrcnn_jax" / "data"
PAGES = ("your_data.md", "large_images.md")
PAGE = " ".join(" ".join((ROOT / "docs" / name).read_text() for name in PAGES).split())
MODULES = sorted(
    path for path in FOLDER.glob("*.py") if path.name not in ("cityscapes.py", "dataset.py", "annotations.py")
)
FROM_CHECKS = ("bbox is not four finite numbers, or far outside", "bbox has no extent", "bbox is outside the image")
FORMATS = sorted(path for path in (FOLDER / "formats").glob("*.py") if path.name != "reader.py")


def reasons_of(path: Path) -> set[str]:
    """The texts that are passed on as reasons, and the constants that are."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        is_repair = (
            name == "append" and isinstance(function, ast.Attribute) and ast.unparse(function.value) == "repairs"
        )
        if is_repair or name in ("repair", "leave_out_image", "leave_out_object", "ImageError", "_lost"):
            texts = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
            found |= {text for text in texts if isinstance(text, str) and " " in text.strip() and len(text) > 12}
    return found


def format_reasons_of(path: Path) -> set[str]:
    """The texts that readers of formats pass on: faults of files, and pairs of a reason and what it is about."""
    nodes: list[ast.expr] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            nodes += node.args[:1] if name == "FileFault" or name.endswith(("lost.append", "repairs.append")) else []
            nodes += [keyword.value for keyword in node.keywords if keyword.arg == "fault"]
        elif isinstance(node, ast.Return) and any(isinstance(part, ast.Tuple) for part in ast.walk(node)):
            nodes += [node.value] if node.value else []
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason":
            nodes.append(node.value)
    texts = [part.value for node in nodes for part in ast.walk(node) if isinstance(part, ast.Constant)]
    found = {text for text in texts if isinstance(text, str) and " " in text.strip() and len(text) > 12}
    return found | reasons_of(path)


@pytest.mark.parametrize("path", [*MODULES, *FORMATS], ids=lambda path: path.name)
def test_reasons_are_explained(path: Path) -> None:
    found = format_reasons_of(path) if path in FORMATS else reasons_of(path)
    missing = [reason for reason in found if reason.strip() not in PAGE]
    assert missing == []


def test_some_reasons_are_found_at_all() -> None:
    assert sum(len(reasons_of(path)) for path in MODULES) > 45
    assert sum(len(format_reasons_of(path)) for path in FORMATS) > 35
    assert all(reason in PAGE for reason in FROM_CHECKS)
