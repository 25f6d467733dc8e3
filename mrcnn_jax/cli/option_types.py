"""Parsing of option values: numbers, tuples of numbers and canvases."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from mrcnn_jax.config import Canvas

REGISTRY = ConstructorRegistry()


def _number(kind: type, text: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"expected {'an integer' if kind is int else 'a number'}, got {text!r}") from None
    if not abs(value) < float("inf"):
        raise ValueError(f"expected a finite number, got {text!r}")
    return value


def _canvas(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"expected HEIGHTxWIDTH, got {text!r}")
    return int(match[1]), int(match[2])


def _items(texts: Sequence[str]) -> Iterator[str]:
    """Yields the items of texts such as `a,b c`, which commas and spaces separate."""
    return (item for text in texts for item in text.split(",") if item)


@REGISTRY.primitive_rule
def _number_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Parses int and float with readable error messages."""
    kind: Any = info.type
    if kind is not int and kind is not float:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda texts: _number(kind, texts[0]),
        is_instance=lambda value: isinstance(value, kind) or (kind is float and isinstance(value, int)),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _tuple_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Parses tuples of numbers as `1,2,3` or `1 2 3`; tuples of canvases as `480x800,800x480`."""
    types = get_args(info.type)
    if info.type_origin is not tuple or not types:
        return None
    item, length = types[0], None if types[-1] is Ellipsis else len(types)
    if types == get_args(Canvas):
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="HxW",
            instance_from_str=lambda texts: _canvas(texts[0]),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [f"{value[0]}x{value[1]}"],
        )
    if get_args(item) == get_args(Canvas):
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="HxW,HxW,...",
            instance_from_str=lambda texts: tuple(_canvas(text) for text in _items(texts)),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [",".join(f"{height}x{width}" for height, width in value)],
        )
    if item not in (int, float) or any(other not in (item, Ellipsis) for other in types):
        return None

    def from_str(texts: list[str]) -> tuple[Any, ...]:
        values = tuple(_number(item, text) for text in _items(texts))
        if length is not None and len(values) != length:
            raise ValueError(f"expected {length} values, got {len(values)}")
        return values

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=",".join([item.__name__.upper()] * (length or 1)) + ("" if length else ",..."),
        instance_from_str=from_str,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(str(number) for number in value)],
    )
