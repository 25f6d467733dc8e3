"""Checks that the sections of the configuration share: canvases, and types, choices and ranges of values."""

import math
import numbers
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

Canvas = tuple[int, int]
"""(height, width) of a padded network input in pixels; both are multiples of 32."""

SIZE_DIVISOR = 32
"""Sides of canvases are multiples of this, the stride of the coarsest backbone stage."""


class Range(NamedTuple):
    """A range of allowed values, which a field's annotation contains beside the type."""

    text: str
    contains: Callable[[float], bool]


AT_LEAST_1 = Range("1 or more", lambda value: value >= 1)
AT_LEAST_0 = Range("0 or more", lambda value: value >= 0)
POSITIVE = Range("a positive value", lambda value: 0 < value < math.inf)
UNIT = Range("0 to 1", lambda value: 0 <= value <= 1)
UNIT_ABOVE_0 = Range("a value in (0, 1]", lambda value: 0 < value <= 1)
UNIT_BELOW_1 = Range("a value in [0, 1)", lambda value: 0 <= value < 1)


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_fields(section: str, config: object) -> None:
    """Raises ValueError for the first field of the dataclass whose value does not match its annotation."""
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        wanted = find_mismatch(hint, value)
        require(not wanted, f"{section}.{name}: expected {wanted}, got {value!r}.")


def find_mismatch(hint: Any, value: Any) -> str:
    """Returns what a field with this annotation expects, or "" if the value matches."""
    if get_origin(hint) is Annotated:
        inner, *ranges = get_args(hint)
        items = _numbers_in(value)
        outside = [each.text for each in ranges if isinstance(each, Range) and not all(map(each.contains, items))]
        # For numbers, including NaN, the range is a better explanation than the type.
        is_numeric = len(items) == (len(value) if isinstance(value, tuple) else 1)
        return outside[0] if outside and is_numeric else find_mismatch(inner, value)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        is_choice = any(type(value) is type(choice) and value == choice for choice in choices)
        return "" if is_choice else f"one of {', '.join(map(str, choices))}"
    if get_origin(hint) is tuple:
        return _find_mismatch_of_tuple(get_args(hint), value)
    if hint is bool:
        return "" if isinstance(value, bool) else "True or False"
    if hint is int:
        return "" if _is_number(value, numbers.Integral) else "a whole number"
    if hint is float:
        return "" if _is_number(value, numbers.Real) and math.isfinite(value) else FINITE
    return "" if isinstance(value, hint) else f"a value of type {hint.__name__}"


FINITE = "a finite number"
EXAMPLES = {
    int: "whole numbers such as (640, 960)",
    float: "numbers such as (0.05, 0.1)",
    Canvas: "canvases such as ((800, 1344),)",
}
"""How messages describe tuples of these types."""


def _find_mismatch_of_tuple(items: tuple[Any, ...], value: Any) -> str:
    is_open = items[-1] is Ellipsis
    kind = items[0] if items[0] in EXAMPLES else Canvas
    wanted = EXAMPLES[kind] if is_open else f"{len(items)} {EXAMPLES[kind].partition(' such as')[0]}"
    if not isinstance(value, tuple) or (not is_open and len(value) != len(items)):
        return wanted
    hints = items[:1] * len(value) if is_open else items
    return wanted if any(find_mismatch(hint, item) for hint, item in zip(hints, value, strict=True)) else ""


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _numbers_in(value: Any) -> list[Any]:
    """Returns the numbers in a value; values of other types have none."""
    values = value if isinstance(value, tuple) else (value,)
    return [item for item in values if _is_number(item, numbers.Real)]


def coerce(hint: Any, value: Any) -> Any:
    """Returns the value, converted to the annotated type if nothing is lost: a list to a tuple, 3.0 to 3, 3 to 3.0."""
    if get_origin(hint) is Annotated:
        return coerce(get_args(hint)[0], value)
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        items = get_args(hint)
        hints = items if items[-1] is not Ellipsis and len(items) == len(value) else items[:1] * len(value)
        return tuple(coerce(each, item) for each, item in zip(hints, value, strict=True))
    if hint is int and _is_number(value, numbers.Real) and math.isfinite(value) and int(value) == value:
        return int(value)
    if hint is float and _is_number(value, numbers.Real):
        return float(value)
    return value


def check_flip(name: str, flip: tuple[int, ...]) -> None:
    """Raises ValueError unless the map of keypoints to their counterparts is its own inverse."""
    require(
        all(0 <= k < len(flip) and flip[k] == own for own, k in enumerate(flip)),
        f"{name}: expected indices from 0 that swap keypoints in pairs or keep them, got {flip}.",
    )


def check_canvases(name: str, canvases: tuple[Canvas, ...]) -> None:
    """Raises ValueError if there are no canvases, or for sides that are not multiples of SIZE_DIVISOR."""
    require(len(canvases) > 0, f"{name}: at least one canvas is needed.")
    for height, width in canvases:
        require(
            height > 0 and width > 0 and height % SIZE_DIVISOR == 0 and width % SIZE_DIVISOR == 0,
            f"{name}: expected sides that are multiples of {SIZE_DIVISOR}, got {height}x{width}.",
        )
