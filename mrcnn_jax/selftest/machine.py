"""Runs all checks of this device, jaxlib and flags, and reports them as a table or for JSON."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from mrcnn_jax.known_faults import XLA_FLAGS, find_faults, installed_jaxlib
from mrcnn_jax.selftest.box_checks import check_deltas, check_matching, check_nms, check_top_k
from mrcnn_jax.selftest.convolution_checks import check_convolutions, check_products
from mrcnn_jax.selftest.device_checks import check_devices
from mrcnn_jax.selftest.findings import Check, Finding, Setting
from mrcnn_jax.selftest.layer_checks import check_layers
from mrcnn_jax.selftest.loss_checks import check_losses
from mrcnn_jax.selftest.reproducers import check_known_faults
from mrcnn_jax.selftest.roi_checks import check_levels, check_mask_targets, check_roi_align
from mrcnn_jax.selftest.step_checks import check_step

CHECKS: dict[str, Check] = {
    "known-faults": check_known_faults,
    "convolutions": check_convolutions,
    "products": check_products,
    "layers": check_layers,
    "roi-align": check_roi_align,
    "levels": check_levels,
    "mask-targets": check_mask_targets,
    "deltas": check_deltas,
    "matching": check_matching,
    "nms": check_nms,
    "top-k": check_top_k,
    "losses": check_losses,
    "step": check_step,
    "devices": check_devices,
}


def run_checks(setting: Setting, names: Sequence[str], report: Callable[[Finding], None]) -> tuple[Finding, ...]:
    """Runs the named checks in the order of CHECKS; `report` is called with each finding at once."""
    findings: list[Finding] = []
    for name in CHECKS:
        if name in names:
            for finding in CHECKS[name](setting):
                findings.append(finding)
                report(finding)
    return tuple(findings)


def read_machine() -> dict[str, Any]:
    """Returns the device, release and flags with which the checks run, and the known faults of this release."""
    devices, jaxlib = jax.local_devices(), installed_jaxlib()
    return {
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "jax": jax.__version__,
        "jaxlib": jaxlib,
        "xla_flags": os.environ.get(XLA_FLAGS, ""),
        "known_faults": [
            {
                "source": fault.source,
                "effect": fault.effect,
                "what": fault.what,
                "way_out": fault.way_out,
                "seen": fault.seen,
            }
            for fault in find_faults(jaxlib, devices[0].platform)
        ],
    }


def format_finding(finding: Finding) -> str:
    """Returns a line of the table."""
    verdict = "ok" if finding.passed else "WRONG"
    return f"{finding.check:<62} {finding.size:<28} {finding.error:>8.1e} {finding.allowed:>8.1e}  {verdict}"


HEADING = f"{'check':<62} {'size':<28} {'error':>8} {'allowed':>8}  verdict"


def summarise(findings: Sequence[Finding]) -> str:
    """Returns one line with the failed checks and, if known, the remedies."""
    failed = [finding for finding in findings if not finding.passed]
    names = ", ".join(finding.check for finding in failed[:3]) + (", ..." if len(failed) > 3 else "")
    remedies = list(dict.fromkeys(finding.remedy for finding in failed if finding.remedy))
    advice = "; ".join(remedies) or "try another release of jaxlib or other XLA_FLAGS"
    return f"{len(failed)} of {len(findings)} checks failed on this machine: {names}. Remedy: {advice}."
