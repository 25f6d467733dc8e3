"""Finds what is wrong with prepared data: faults in images, objects, classes and splits, and in how they fit a preset.

Prints one line for each finding, and with --to writes report.json and report.html, a page with drawn images.
`mrcnn check-data` checks something else: that preparation and evaluation lose nothing of correct annotations.

    mrcnn inspect-data --data data/mine --preset nuclei_r18_fpn --to report --fail-on error
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.progress import show_progress
from mrcnn_jax.config import Config
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.inspection.catalogue import SEVERITIES, InspectionFinding
from mrcnn_jax.inspection.data_report import write_report
from mrcnn_jax.inspection.inspected_split import find_splits, inspect_splits
from mrcnn_jax.inspection.run_checks import run_checks
from mrcnn_jax.presets import load_preset

DEFAULTS = "the defaults (mask_rcnn_r50_fpn_1x)"


@dataclass(frozen=True)
class Arguments:
    """What to inspect, and the settings with which it is to be used."""

    config: command_line.Inline[Config] = field(default_factory=Config)
    data: tuple[str, ...] = ()
    """Prepared folders, each DIR with all of its splits, or DIR:SPLIT; by default data.train and data.val."""
    splits: str = ""
    """Splits to inspect, with commas between, such as train,val; all by default."""
    preset: str = ""
    """Preset, or file of your own, with whose anchors, sizes, canvases and numbers of slots the data is compared."""
    to: Path | None = None
    """Folder for report.json and report.html."""
    examples: int = 6
    """Images drawn for each finding."""
    fail_on: Literal["never", "warning", "error"] = "never"
    """End with exit code 3 if there is a finding of this severity or a worse one."""


def main() -> None:
    config, preset = _read_preset()
    arguments = command_line.parse(Arguments(config), __doc__ or "")
    if arguments.examples < 0:
        raise ConfigError(f"--examples is at least 0, got {arguments.examples}.")
    config = arguments.config
    specs = arguments.data or tuple(spec for spec in (config.data.train, config.data.val) if spec)
    found = find_splits(specs, [name for name in arguments.splits.split(",") if name])
    with show_progress("inspected") as progress:
        data = inspect_splits(found, config, progress)
    findings = run_checks(data)
    for finding in findings:
        print(command_line.one_line(f"{finding.severity} {finding.check}: {finding.text}"))
    counts = describe_counts(findings)
    if arguments.to is not None:
        write_report(arguments.to, data, findings, preset, num_examples=arguments.examples)
        print(f"{counts}. Wrote {arguments.to}/report.json and {arguments.to}/report.html")
    else:
        print(f"{counts}.")
    _fail(findings, arguments.fail_on, counts)


def _read_preset() -> tuple[Config, str]:
    """Returns the settings of the preset that `--preset` names, and its name; the defaults without one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", default="")
    try:
        name = parser.parse_known_args()[0].preset
    except argparse.ArgumentError:  # --preset without a name: parsing the whole command line reports it
        name = ""
    return (load_preset(name), name) if name else (Config(), DEFAULTS)


def describe_counts(findings: list[InspectionFinding]) -> str:
    """Returns a text such as `1 error, 0 warnings, 2 notes`."""
    counts = [(severity, sum(each.severity == severity for each in findings)) for severity in SEVERITIES]
    return ", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts)


def _fail(findings: list[InspectionFinding], fail_on: str, counts: str) -> None:
    """Raises DataError if there is a finding of this severity, or a worse one."""
    if fail_on == "never":
        return
    worst = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    if any(finding.severity in worst for finding in findings):
        raise DataError(f"The data has {counts} (--fail-on {fail_on}).")
