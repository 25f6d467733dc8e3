"""Integer arithmetic that Python lacks."""

from typing import Any


def ceil_div(dividend: Any, divisor: Any) -> Any:
    """Returns dividend / divisor, rounded up, for integers or integer arrays."""
    return -(-dividend // divisor)
