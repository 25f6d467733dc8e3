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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_reasons_are_explained(path: Path) -> None:
    missing = [reason for reason in reasons_of(path) if reason.strip() not in PAGE]
    assert missing == []


def test_some_reasons_are_found_at_all() -> None:
    assert sum(len(reasons_of(path)) for path in MODULES) > 45
    assert all(reason in PAGE for reason in FROM_CHECKS)
