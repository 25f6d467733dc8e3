"""Platform-specific forms of an operation."""

from collections.abc import Callable
from typing import Any

import jax


def choose_form(
    *inputs: Any, gpu: Callable[..., Any], default: Callable[..., Any], cpu: Callable[..., Any] | None = None
) -> Any:
    """Returns the result of the form for the platform that the program is compiled for.

    All forms return the same values; they differ in their cost on each platform.
    """
    forms = {"cuda": gpu, "rocm": gpu} | ({"cpu": cpu} if cpu else {})
    return jax.lax.platform_dependent(*inputs, **forms, default=default)
