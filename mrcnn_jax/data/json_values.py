"""Numbers as exports write them: as numbers, as text, as booleans, or not at all."""

import re


def read_number(value: object) -> float | None:
    """Returns the finite number that a JSON value means, of type int or float; None if it means none."""
    if isinstance(value, str):
        # A comma before other than three digits is a decimal comma, and px a unit.
        text = re.sub(r"^(-?\d+),(\d{1,2}|\d{4,})$", r"\1.\2", value.strip().removesuffix("px"))
        try:
            value = float(text) if len(text) < 40 else None
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e300 else None  # False for NaN


def read_integer(value: object) -> int | None:
    """Returns the integer that a JSON value means, such as 7, 7.0 and "7"; None if it means none, or 2**63 or more."""
    number = read_number(value)
    if number is None or number != int(number) or abs(number) >= 2**63:
        return None
    return int(number)


def read_flag(value: object) -> bool | None:
    """Returns the truth value that a JSON value means: 0, 1, null, true, "false", "1.0"; None if it means none."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in ("", "false", "no", "null", "none"):
        return False
    if isinstance(value, str) and value.strip().lower() in ("true", "yes"):
        return True
    number = read_number(value)
    return bool(number) if number in (0, 1) else None
