"""The report of an inspection: report.json, and report.html with drawn images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn_jax.errors import StorageError
from mrcnn_jax.inspection.catalogue import CHECKS, SEVERITIES, Example, InspectionFinding
from mrcnn_jax.inspection.finding_pictures import draw_example, encode_jpeg
from mrcnn_jax.inspection.inspected_split import InspectedData, InspectedSplit
from mrcnn_jax.inspection.report_page import Picture, make_page
from mrcnn_jax.inspection.run_checks import PERCENTILES, summarise
from mrcnn_jax.json_files import replace_file, write_json

FORMAT = 1
"""Version of report.json."""
MAX_LISTED = 1000
"""Examples of each finding that report.json contains."""


def describe(data: InspectedData, findings: Sequence[InspectionFinding], preset: str) -> dict[str, Any]:
    """Returns the report for JSON."""
    splits = {split.name: split for split in data.splits}
    found = {finding.check for finding in findings}
    return {
        "format": FORMAT,
        "preset": preset,
        "counts": {severity: sum(each.severity == severity for each in findings) for severity in SEVERITIES},
        "percentiles": list(PERCENTILES),
        "splits": [summarise(split, data) for split in data.splits],
        "findings": [_describe_finding(finding, splits) for finding in findings],
        "passed": [check for check in CHECKS if check not in found],
    }


def _describe_finding(finding: InspectionFinding, splits: dict[str, InspectedSplit]) -> dict[str, Any]:
    check = CHECKS[finding.check]
    return {
        "check": finding.check,
        "severity": finding.severity,
        "title": check.title,
        "splits": list(finding.splits),
        "text": finding.text,
        "remedy": check.remedy,
        "count": finding.count,
        "examples": [_describe_example(example, splits) for example in finding.examples[:MAX_LISTED]],
    }


def _describe_example(example: Example, splits: dict[str, InspectedSplit]) -> dict[str, Any]:
    image = splits[example.split].images[example.image]
    content: dict[str, Any] = {"split": example.split, "image_id": image.image_id, "file_name": image.file_name}
    if example.objects:
        content["annotation_ids"] = [int(image.objects.ids[place]) for place in example.objects]
    if example.text:
        content["text"] = example.text
    if example.other is not None:
        content["other"] = _describe_example(example.other, splits)
    return content


def write_report(
    to: Path, data: InspectedData, findings: Sequence[InspectionFinding], preset: str, *, num_examples: int
) -> None:
    """Writes `to`/report.json and `to`/report.html with up to `num_examples` drawn images for each finding.

    Raises StorageError if they cannot be written.
    """
    report = describe(data, findings, preset)
    write_json(to / "report.json", report)
    pictures = {
        position: [_draw(example, data) for example in _spread(finding.examples, num_examples)]
        for position, finding in enumerate(findings)
    }
    page = make_page(data, findings, pictures, report)
    try:
        replace_file(to / "report.html", page.encode())
    except OSError as error:
        raise StorageError(f"{to / 'report.html'} could not be written: {error.strerror}.") from error


def _spread(examples: Sequence[Example], limit: int) -> list[Example]:
    """Returns the first examples, but those of images that are not shown yet before others of the same image."""
    seen: set[tuple[str, int]] = set()
    first: list[Example] = []
    later: list[Example] = []
    for example in examples:
        place = (example.split, example.image)
        (later if place in seen else first).append(example)
        seen.add(place)
        if len(first) == limit:
            break
    return (first + later)[:limit]


def _draw(example: Example, data: InspectedData) -> Picture:
    splits = {split.name: split for split in data.splits}
    both = [example] if example.other is None else [example, example.other]
    drawn = [draw_example(splits[each.split], each, is_compared=len(both) > 1) for each in both]
    captions = []
    for each in both:
        name = splits[each.split].images[each.image].file_name
        captions.append(f"{each.split}: {name}" + (f", {each.text}" if each.text else ""))
    return " / ".join(captions), [encode_jpeg(picture) for picture in drawn if picture is not None]
