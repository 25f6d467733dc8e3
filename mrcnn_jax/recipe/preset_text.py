"""The text of a preset: a Python file that defines `config`, with a comment above each value."""

import textwrap
from typing import Any

from mrcnn_jax.recipe.choices import Choices

LINE = 116
_SECTIONS = {
    "model": "ModelConfig",
    "targets": "TargetsConfig",
    "test": "TestConfig",
    "data": "DataConfig",
    "train": "TrainConfig",
}


def write_preset_text(choices: Choices, title: str, paragraphs: list[str], command: str) -> str:
    """Returns the source of the preset. Names from the data cannot end a comment or the docstring."""
    used = [section for section in _SECTIONS if any(name.startswith(f"{section}.") for name in choices.values)]
    lines = [f'"""{_docstring_text(title)}', "", f"    {_docstring_text(command)}", ""]
    for paragraph in paragraphs:
        lines += [*textwrap.wrap(_docstring_text(paragraph), LINE), ""]
    lines[-1] = '"""'
    imports = ", ".join(sorted(["Config", *(_SECTIONS[section] for section in used)]))
    lines += ["", f"from mrcnn_jax.config import {imports}", "", "config = Config("]
    for section in used:
        lines.append(f"    {section}={_SECTIONS[section]}(")
        for name, value in choices.values.items():
            if name.startswith(f"{section}."):
                wrapped = textwrap.wrap(_one_line(choices.reasons[name]), LINE - 10)
                lines += [f"        # {part}" for part in wrapped]
                lines.append(f"        {name.partition('.')[2]}={source_of(value)},")
        lines.append("    ),")
    return "\n".join([*lines, ")", ""])


def source_of(value: Any) -> str:
    """Returns the Python source of a number, text, truth value or tuple of them."""
    if isinstance(value, str):
        is_plain = value.isprintable() and not set(value) & {'"', "\\"}
        return f'"{value}"' if is_plain else repr(value)
    if isinstance(value, tuple):
        inner = ", ".join(source_of(item) for item in value)
        return f"({inner}{',' if len(value) == 1 else ''})"
    return repr(value)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _docstring_text(text: str) -> str:
    return _one_line(text).replace("\\", "/").replace('"', "'")
