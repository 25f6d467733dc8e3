"""Objects of training checkpoints that are not weights: read as plain values or as empty shells, never as themselves.

Training scripts save their options, schedules and histories beside the weights. The classes of these objects are names
in a table: they are not imported, and no constructor, method or `__setstate__` of theirs runs.
"""

from collections.abc import Callable
from typing import Any

from mrcnn_jax.weights.files.tensors import require


class Inert:
    """What is left of an object: the name of its class and, if the pickle has one, its dict of attributes."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[Any, Any] = {}

    def build(self, state: Any) -> None:
        """Keeps a dict of attributes; any other state is dropped."""
        self.fields = state if type(state) is dict else {}


SHELLS = frozenset(
    {
        ("argparse", "Namespace"),
        ("types", "SimpleNamespace"),
        *(("datetime", name) for name in ("datetime", "date", "time", "timedelta")),
        ("torchvision.transforms.functional", "InterpolationMode"),
        ("mmengine.logging.history_buffer", "HistoryBuffer"),
    }
)
"""Classes whose objects become `Inert`, by module and name."""

DICTS = frozenset(
    {
        *((f"{module}.utilities.parsing", "AttributeDict") for module in ("lightning.pytorch", "pytorch_lightning")),
        *((f"{module}.utilities.data", "AttributeDict") for module in ("lightning.fabric", "lightning_fabric")),
        *((module, "CfgNode") for module in ("yacs.config", "fvcore.common.config", "detectron2.config.config")),
    }
)
"""Subclasses of dict, which become dicts."""


def _make_counter(counts: Any = None) -> dict[Any, Any]:
    require(counts is None or type(counts) is dict, "a Counter is not in Python's format")
    return counts or {}


def _make_path(*parts: Any) -> str:
    require(all(isinstance(part, str) for part in parts), "a path is not in Python's format")
    return "/".join(parts)


def _make_deque(items: Any = (), max_length: Any = None) -> list[Any]:
    require(isinstance(items, (tuple, list)), "a deque is not in Python's format")
    return list(items)


PLAIN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "Counter"): _make_counter,
    ("collections", "deque"): _make_deque,
    **{
        (module, name): _make_path
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    },
}
"""Classes whose objects become plain values: a dict, a list, a text."""
