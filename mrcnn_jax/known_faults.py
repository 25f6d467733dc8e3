"""Releases of jaxlib that are known to compute wrong results, to crash or to be slow, and flags that avoid the faults.

This module imports only the standard library and never JAX, because flags have to be set before JAX starts.
"""

import functools
import importlib.metadata
import os
import re
import warnings
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

XLA_FLAGS = "XLA_FLAGS"
YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
NO_REDUCTIONS = f"{YNN_FLAG}=LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
"""Keeps convolutions and matrix products in YNNPACK, but not reductions. jaxlib 0.10.1 to 0.12.0 accept this flag (all
were tried). XLA ends the process at an unknown flag, so it is set only for the releases listed in FAULTS."""


ATOMIC_ADDITIONS = "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"
LOOPS_IN_GRAPHS = "--xla_gpu_enable_command_buffer=+WHILE"


@dataclass(frozen=True)
class Fault:
    """A fault in a range of jaxlib releases."""

    source: str
    """URL of the report."""
    platform: Literal["cpu", "gpu", "all"]
    first: str
    """First affected release of jaxlib."""
    last: str
    """Last affected release of jaxlib, or the newest one that was checked if the report is still open."""
    effect: Literal["wrong", "crash", "slow", "differs"]
    what: str
    way_out: str
    seen: str
    """What was reproduced here, and what was only reported."""
    flag: str = ""
    """Flag that `set_flags` adds to XLA_FLAGS; if empty, the user has to avoid the fault."""


JAX, XLA = "https://github.com/jax-ml/jax/issues", "https://github.com/openxla/xla/issues"
FAULTS = (
    Fault(
        source=f"{JAX}/39103",
        platform="cpu",
        first="0.10.2",
        last="0.10.2",
        effect="wrong",
        what="a jitted sum of products over more than 32,768 rows is silently wrong in its last rows",
        way_out=f"set XLA_FLAGS={NO_REDUCTIONS}",
        seen="reproduced with 0.10.2; 0.10.1 and 0.11.0 to 0.12.0 are correct",
        flag=NO_REDUCTIONS,
    ),
    Fault(
        source=f"{JAX}/39257",  # and 40412, with dimensions of size 1
        platform="cpu",
        first="0.10.2",
        last="0.11.0",
        effect="crash",
        what="a jitted sum of products of arrays of rank 7 or more crashes or hangs",
        way_out=f"set XLA_FLAGS={NO_REDUCTIONS}",
        seen="reproduced with 0.10.2, also as jax 40412; reported for 0.11.0, where it was not seen here",
        flag=NO_REDUCTIONS,
    ),
    Fault(
        source=f"{JAX}/39352",
        platform="cpu",
        first="0.10.2",
        last="0.10.2",
        effect="wrong",
        what="jnp.arctan of 50 or more values is wrong",
        way_out="install another jaxlib",
        seen="reported on one machine, not seen here; nothing in this package uses arctan",
    ),
    Fault(
        source=f"{JAX}/40633",
        platform="gpu",
        first="0.11.0",
        last="0.11.1",
        effect="wrong",
        what="operations outside of jax.jit return wrong values and NaN on an RTX A6000 with CUDA 13",
        way_out="install jaxlib 0.10.2",
        seen="reported, open; not reproduced",
    ),
    Fault(
        source=f"{JAX}/39486",  # and 39336
        platform="gpu",
        first="0.10.2",
        last="0.11.0",
        effect="wrong",
        what="fused products are miscompiled for GPUs of compute capability 12.0 (sm_120)",
        way_out="check with --xla_gpu_verify_triton_fusion_numerics=true in XLA_FLAGS",
        seen="reported, open; not reproduced",
    ),
    Fault(
        source=f"{XLA}/46225",
        platform="gpu",
        first="0.10.2",
        last="0.11.0",
        effect="slow",
        what="float32 scatter-adds, as in RoIAlign's gradient, become compare-and-swap loops, up to 450 times slower",
        way_out=f"set XLA_FLAGS={ATOMIC_ADDITIONS}, or install jaxlib 0.11.1",
        seen="found in the code compiled for an A100, where the flag avoids it; the time was not measured",
        flag=ATOMIC_ADDITIONS,
    ),
    Fault(
        source=f"{XLA}/6973",
        platform="gpu",
        first="0.10.2",
        last="0.12.0",
        effect="slow",
        what="loops with a data-dependent trip count, such as those of NMS, wait for the host in every iteration",
        way_out=f"set XLA_FLAGS={LOOPS_IN_GRAPHS}",
        seen="found in the program compiled for an H100, where the flag puts all such loops into CUDA graphs; not run",
        flag=LOOPS_IN_GRAPHS,
    ),
    Fault(
        source=f"{XLA}/41605",
        platform="all",
        first="0.10.2",
        last="0.12.0",
        effect="differs",
        what="XLA may omit roundings to bfloat16, so results on one and on several devices differ by them",
        way_out="set XLA_FLAGS=--xla_allow_excess_precision=false if results have to be the same",
        seen="reported; not measured here",
    ),
)


def installed_jaxlib() -> str:
    """Returns the installed version of jaxlib without importing it."""
    return importlib.metadata.version("jaxlib")


def find_faults(jaxlib: str, platform: str) -> list[Fault]:
    """Returns the faults of a jaxlib release on a platform: cpu, gpu or tpu, as in JAX."""
    release = _release(jaxlib)
    return [
        fault
        for fault in FAULTS
        if fault.platform in (platform, "all") and _release(fault.first) <= release <= _release(fault.last)
    ]


def _release(version: str) -> tuple[int, ...]:
    """Returns the first three numbers of a version: 0.12.0.1 has the faults of 0.12.0."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def set_flags(environ: MutableMapping[str, str] = os.environ, jaxlib: str | None = None) -> None:
    """Adds the flags that avoid the known faults to XLA_FLAGS. Call it before JAX is imported.

    Flags that XLA_FLAGS already contains keep their values, and XLA_FLAGS stays unchanged if it is the name of a file.
    The platform is not known before JAX starts, so the flags of all platforms are set: each platform reads only its
    own.
    """
    for flag in _missing_flags(environ, jaxlib or installed_jaxlib()):
        flags = environ.get(XLA_FLAGS, "").strip()
        if not flags or flags.startswith("-"):
            environ[XLA_FLAGS] = f"{flags} {flag}".strip()


@functools.cache
def warn_once(platform: str) -> None:
    """Warns, once per platform, if its results are known to be wrong and the flag that avoids this is not set."""
    jaxlib = installed_jaxlib()
    missing = _missing_flags(os.environ, jaxlib)
    for fault in find_faults(jaxlib, platform):
        if fault.effect == "wrong" and fault.flag in missing:
            warnings.warn(
                f"jaxlib {jaxlib} computes wrong results on this platform: {fault.what} ({fault.source}). "
                f"Before JAX is imported, {fault.way_out}, or call mrcnn_jax.known_faults.set_flags().",
                RuntimeWarning,
                stacklevel=2,
            )


def _missing_flags(environ: MutableMapping[str, str], jaxlib: str) -> list[str]:
    """Returns the flags of the release's faults whose names do not occur in XLA_FLAGS or in the file that it names."""
    flags = environ.get(XLA_FLAGS, "").strip()
    if flags and not flags.startswith("-") and Path(flags).is_file():
        flags = Path(flags).read_text()
    faults = [fault for platform in ("cpu", "gpu") for fault in find_faults(jaxlib, platform)]
    wanted = dict.fromkeys(fault.flag for fault in faults if fault.flag)
    return [flag for flag in wanted if flag.partition("=")[0] not in re.split(r"[\s=]+", flags)]
