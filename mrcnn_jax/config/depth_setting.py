"""The setting that scales images with more than 8 bits a channel (data/depth.py has the rule)."""

import math

AUTO_DEPTH = "auto"
FULL_DEPTH = "full"


def parse_depth(depth: str) -> tuple[float, float] | None:
    """Returns the range of LOW,HIGH, or None for `auto` and `full`. Raises ValueError for anything else."""
    if depth in (AUTO_DEPTH, FULL_DEPTH):
        return None
    try:
        low, high = map(float, depth.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"expected auto, full or LOW,HIGH with LOW below HIGH, got {depth!r}")
    return low, high
