"""Is this device computing right? Runs what Mask R-CNN consists of at real sizes and compares with NumPy in float64.

mrcnn check-machine            # 96 s on one CPU core; ends with 0, or with 6 where something is wrong
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

DESCRIPTION = f"""Checks that this device computes right, with the installed jaxlib and the flags in XLA_FLAGS.

Every operation of the network and its gradients are compared at real sizes with NumPy in float64, and the known faults
of jaxlib are looked for. Needs no data. Ends with 0 if all is right, and with 6 and what to do if not. GPUs and TPUs
multiply float32 as TF32 or bfloat16 by default: there, products are checked both so and at full precision.

Checks: {", ".join(CHECKS)}."""


@dataclass(frozen=True)
class Arguments:
    quick: bool = False
    """Small sizes: faster, and blind to faults that large arrays alone have."""
    only: str = ""
    """Names of checks to run, with commas between them; all by default."""
    json: bool = False
    """Print JSON instead of the table."""


def main() -> None:
    arguments = command_line.parse(Arguments(), DESCRIPTION)
    names = [name for name in arguments.only.split(",") if name] or list(CHECKS)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise ConfigError(f"No check {unknown[0]}: expected some of {', '.join(CHECKS)}.")
    started, machine = time.perf_counter(), read_machine()
    setting = make_setting(jax.default_backend(), arguments.quick)
    if not arguments.json:
        print(f"{machine['num_devices']} x {machine['device']}, jax {machine['jax']}, jaxlib {machine['jaxlib']}")
        print(f"XLA_FLAGS={machine['xla_flags']}")
        for fault in machine["known_faults"]:
            print(f"This release is known for: {fault['what']} ({fault['source']}; {fault['seen']}).")
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
        print(f"\nAll {len(findings)} checks are right, in {seconds:.0f} s.")


def show(finding: Finding) -> None:
    print(format_finding(finding), flush=True)


def to_json(finding: Finding) -> dict[str, object]:
    """For JSON, which has no NaN: None."""
    error = finding.error if math.isfinite(finding.error) else None
    return {**dataclasses.asdict(finding), "error": error, "passed": finding.passed}
