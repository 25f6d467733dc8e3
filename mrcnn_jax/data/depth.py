"""Images with more than 8 bits a channel: the rule that scales their values to 0..255.

`auto` takes the smallest usual range that contains all values of the image: 0..1 for floating-point values, and
0..255, 0..1023, 0..4095, 0..16383 or 0..65535. Microscopes and depth cameras store 10, 12 or 14 bits in 16.
`full` takes 0..65535 for integers and 0..1 for floating-point values. `LOW,HIGH` takes that range for all images;
values outside are clipped.
"""

import math
from typing import NamedTuple

import numpy as np

from mrcnn_jax.config.depth_setting import AUTO_DEPTH, parse_depth

_BITS = (8, 10, 12, 14, 16)


class DepthError(ValueError):
    """Values for which the rule gives no range."""


class ValueRange(NamedTuple):
    """The values that become 0 and 255."""

    low: float
    high: float
    drops_low_byte: bool = False  # 16 bits become 8 without rounding


def scale_depth(values: np.ndarray, depth: str = AUTO_DEPTH) -> tuple[np.ndarray, str]:
    """Returns the values, integers or floats of any shape, as uint8, and a note if their range was chosen.

    Raises DepthError if the values are not finite, or if no usual range contains them.
    """
    chosen, note = choose_range(float(values.min()), float(values.max()), values.dtype, depth)
    return scale_values(values, chosen), note


def choose_range(low: float, high: float, dtype: np.dtype, depth: str = AUTO_DEPTH) -> tuple[ValueRange, str]:
    """Returns the range for an image with values from low to high, and a note if it was chosen. Raises DepthError."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DepthError("image has values that are not finite")
    given = parse_depth(depth)
    if given is not None:
        return ValueRange(*given), ""
    is_float = dtype.kind == "f"
    limit, note = (1.0, "") if is_float else (2.0**16 - 1, "")
    if depth == AUTO_DEPTH and low >= 0 and not (is_float and high <= 1.0):
        limit = next((2.0**bits - 1 for bits in _BITS if high < 2**bits), limit)
        if is_float or limit < 2**16 - 1:
            note = f"values scaled from 0..{limit:.0f} (--depth 0,{limit:.0f} fixes this range)"
    if low < 0 or high > limit:
        raise DepthError(f"values outside of 0..{limit:g}; --depth LOW,HIGH states their range")
    return ValueRange(0.0, limit, drops_low_byte=limit == 2**16 - 1 and not is_float), note


def scale_values(values: np.ndarray, chosen: ValueRange) -> np.ndarray:
    """Returns the values, of any shape, as uint8; those outside of the range are clipped."""
    if chosen.drops_low_byte:
        return (values.astype(np.int64) >> 8).astype(np.uint8)
    scaled = (values.astype(np.float64) - chosen.low) * (255.0 / (chosen.high - chosen.low))
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)
