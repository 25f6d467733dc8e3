"""Results, sizes, precisions and tolerances of the checks.

Errors are relative to the largest expected value, so that one tolerance applies to values of any scale. Operations are
compared with NumPy in float64, implemented from their definitions and not from the code of this package.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

FLOAT32 = 2e-5
"""Tolerance for sums of up to 70,000 products in float32 in any order; measured errors are at most a tenth of it."""
REDUCED = 3e-2
"""Tolerance for products in bfloat16 or TF32, which round factors by up to 1 / 256, and for results in bfloat16."""
ELEMENTWISE = 5e-6
"""Tolerance for short formulas in float32; accelerators do not round logarithms and exponentials correctly."""
EXACT = 0.0
"""Tolerance for selections, such as those of NMS, for which the error is the number of differences."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    size: str
    error: float
    allowed: float
    remedy: str = ""
    """What to do if the check fails, if that is known."""

    @property
    def passed(self) -> bool:
        return bool(self.error <= self.allowed)  # False for NaN


@dataclass(frozen=True)
class Setting:
    """Sizes and precisions at which the checks run."""

    canvas: tuple[int, int] = (800, 1344)
    """Padded size of the network input, as in the paper."""
    num_rois: int = 512
    num_slots: int = 100
    """Ground-truth slots."""
    precisions: tuple[tuple[str, float], ...] = (("highest", FLOAT32),)
    """Values of jax.default_matmul_precision, each with its tolerance."""

    def map_hw(self, stride: int) -> tuple[int, int]:
        return self.canvas[0] // stride, self.canvas[1] // stride

    def at_precisions(self, check: str) -> Iterator[tuple[str, float]]:
        """Yields the check's name and tolerance at each precision of float32 products, which is set meanwhile."""
        for name, allowed in self.precisions:
            with jax.default_matmul_precision(name):
                yield (check if name == "highest" else f"{check}, {name} precision"), allowed


Check = Callable[[Setting], Iterator[Finding]]


def make_setting(platform: str, quick: bool) -> Setting:
    """Returns the setting for a platform.

    Accelerators multiply float32 at a lower precision by default, so products are checked at both precisions.
    """
    precisions = (("highest", FLOAT32),) if platform == "cpu" else (("highest", FLOAT32), ("default", REDUCED))
    if quick:
        return Setting(canvas=(128, 192), num_rois=48, num_slots=40, precisions=precisions)
    return Setting(precisions=precisions)


def random_of(check: str) -> np.random.Generator:
    """Returns a generator with the same numbers in every run and different ones for every check."""
    return np.random.default_rng(zlib.crc32(check.encode()))


def relative_error(found: Any, expected: Any) -> float:
    """Returns the largest difference divided by the largest expected value; NaN if a found value is not finite."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"Expected shape {expected.shape}, got {found.shape}.")
    if not np.isfinite(found).all():
        return float("nan")
    return float(np.abs(found - expected).max(initial=0.0) / max(np.abs(expected).max(initial=0.0), 1e-30))


def shape_text(*shape: int) -> str:
    return "x".join(map(str, shape))
