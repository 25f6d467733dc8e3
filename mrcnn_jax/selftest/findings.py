"""What a check returns, at which sizes and precisions it runs, and what counts as equal.

Errors are relative to the largest expected value, so one allowance serves values of any scale. Checks of operations
compare with NumPy in float64, written from the definitions and not from our code.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

FLOAT32 = 2e-5
"""Sums of up to 70,000 products in float32, in whatever order: measured errors are a tenth of this and less."""
REDUCED = 3e-2
"""Products of bfloat16 or TF32, which round each factor by up to 1 / 256, and results kept in bfloat16."""
ELEMENTWISE = 5e-6
"""Formulas of a few operations in float32; accelerators' logarithms and exponentials are not correctly rounded."""
EXACT = 0.0
"""Choices, such as what NMS keeps: the number that differ."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    size: str
    error: float
    allowed: float
    remedy: str = ""
    """What to do about it, where that is known."""

    @property
    def passed(self) -> bool:
        return bool(self.error <= self.allowed)  # False for NaN


@dataclass(frozen=True)
class Setting:
    """Where and at which sizes the checks run."""

    canvas: tuple[int, int] = (800, 1344)
    """Network input, as of the paper's recipe."""
    num_rois: int = 512
    num_slots: int = 100
    """Ground-truth slots."""
    precisions: tuple[tuple[str, float], ...] = (("highest", FLOAT32),)
    """Names of jax.default_matmul_precision with the error that it allows."""

    def map_hw(self, stride: int) -> tuple[int, int]:
        return self.canvas[0] // stride, self.canvas[1] // stride

    def at_precisions(self, check: str) -> Iterator[tuple[str, float]]:
        """The check's name and allowance at each precision of float32 products; yields inside of it."""
        for name, allowed in self.precisions:
            with jax.default_matmul_precision(name):
                yield (check if name == "highest" else f"{check}, {name} precision"), allowed


Check = Callable[[Setting], Iterator[Finding]]


def make_setting(platform: str, quick: bool) -> Setting:
    """Accelerators multiply float32 at a lower precision by default: products are checked at both."""
    precisions = (("highest", FLOAT32),) if platform == "cpu" else (("highest", FLOAT32), ("default", REDUCED))
    if quick:
        return Setting(canvas=(128, 192), num_rois=48, num_slots=40, precisions=precisions)
    return Setting(precisions=precisions)


def random_of(check: str) -> np.random.Generator:
    """Random numbers that are the same in every run, and others for every check."""
    return np.random.default_rng(zlib.crc32(check.encode()))


def relative_error(found: Any, expected: Any) -> float:
    """The largest difference over the largest expected value; NaN if anything found is not finite."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"Expected shape {expected.shape}, got {found.shape}.")
    if not np.isfinite(found).all():
        return float("nan")
    return float(np.abs(found - expected).max(initial=0.0) / max(np.abs(expected).max(initial=0.0), 1e-30))


def shape_text(*shape: int) -> str:
    return "x".join(map(str, shape))
