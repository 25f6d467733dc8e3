"""Fields of the configuration as command-line options that can be pasted."""

from collections.abc import Iterable
from typing import Any


def as_options(section: str, config: object, names: Iterable[str]) -> str:
    """Returns the options that set these fields to the values in `config`, such as `--model.no-masks`."""
    return " ".join(_option(f"{section}.{name}", getattr(config, name)) for name in names)


def _option(name: str, value: Any) -> str:
    section, _, field = name.replace("_", "-").partition(".")
    if isinstance(value, bool):
        return f"--{section}.{'' if value else 'no-'}{field}"
    return f"--{section}.{field} {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ",".join("x".join(map(str, item)) for item in value)
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
