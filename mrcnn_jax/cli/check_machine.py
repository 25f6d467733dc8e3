"""Checks that this device computes the operations of Mask R-CNN correctly, at real sizes against NumPy in float64.

mrcnn check-machine            # 96 s on one CPU core; ends with 0, or with 6 if something is wrong
mrcnn check-machine --quick    # small sizes
"""

import dataclasses
import json
import math
import time
from dataclasses import dataclass

import jax

from mrcnn_jax.cli import command_line
from mrcnn_jax.errors import ConfigError, DeviceError
from mrcnn_jax.selftest.findings import Finding, make_setting
from mrcnn_jax.selftest.machine import CHECKS, HEADING, format_finding, read_machine, run_checks, summarise

DESCRIPTION = f"""Checks that this device computes correctly with the installed jaxlib and the flags in XLA_FLAGS.

Every operation of the network and its gradients are compared at real sizes with NumPy in float64, and reproducers of
the known faults of jaxlib are run. Needs no data. Ends with 0 if everything is correct; otherwise prints what to do and
ends with 6. GPUs and TPUs multiply float32 as TF32 or bfloat16 by default, so their products are checked at this and at
full precision.

Checks: {", ".join(CHECKS)}."""


@dataclass(frozen=True)
class Arguments:
    quick: bool = False
    """Use small sizes, which is faster but misses faults of large arrays."""
    only: str = ""
    """Comma-separated names of the checks to run; all by default."""
    json: bool = False
    """Print JSON instead of the table."""


def main() -> None:
    arguments = command_line.parse(Arguments(), DESCRIPTION)
    names = [name for name in arguments.only.split(",") if name] or list(CHECKS)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise ConfigError(f"--only: there is no check {unknown[0]}; choose from {', '.join(CHECKS)}.")
    started, machine = time.perf_counter(), read_machine()
    setting = make_setting(jax.default_backend(), arguments.quick)
    if not arguments.json:
        print(f"{machine['num_devices']} x {machine['device']}, jax {machine['jax']}, jaxlib {machine['jaxlib']}")
        print(f"XLA_FLAGS={machine['xla_flags']}")
        for fault in machine["known_faults"]:
            print(f"Known fault of this release: {fault['what']} ({fault['source']}; {fault['seen']}).")
        print(f"\n{HEADING}")
    findings = run_checks(setting, names, (lambda _: None) if arguments.json else show)
    seconds = time.perf_counter() - started
    passed = all(finding.passed for finding in findings)
    if arguments.json:
        content = {**machine, "seconds": round(seconds, 1), "passed": passed, "findings": list(map(to_json, findings))}
        print(json.dumps(content, indent=2))
    if not passed:
        raise DeviceError(summarise(findings))
    if not arguments.json:
        print(f"\nAll {len(findings)} checks passed in {seconds:.0f} s.")


def show(finding: Finding) -> None:
    print(format_finding(finding), flush=True)


def to_json(finding: Finding) -> dict[str, object]:
    """Returns a finding for JSON, in which NaN and infinity are None."""
    error = finding.error if math.isfinite(finding.error) else None
    return {**dataclasses.asdict(finding), "error": error, "passed": finding.passed}
