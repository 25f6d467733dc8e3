"""Forms of an operation by platform."""

from collections.abc import Callable
from typing import Any

import jax


def choose_form(
    *inputs: Any, gpu: Callable[..., Any], default: Callable[..., Any], cpu: Callable[..., Any] | None = None
) -> Any:
    """Returns what the form of the platform that the program is compiled for makes of the inputs.

    All forms return the same; they differ in what a platform takes for them.
    """
    forms = {"cuda": gpu, "rocm": gpu} | ({"cpu": cpu} if cpu else {})
    return jax.lax.platform_dependent(*inputs, **forms, default=default)
