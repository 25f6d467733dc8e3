"""The report as one HTML page that needs no other file and no network."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mrcnn_jax.inspection.catalogue import CHECKS, SEVERITIES, InspectionFinding
from mrcnn_jax.inspection.charts import Series, bin_values, draw_histogram, draw_rows, integer_edges
from mrcnn_jax.inspection.fit_checks import anchor_ious, finest_stride, network_sides
from mrcnn_jax.inspection.inspected_split import InspectedData
from mrcnn_jax.inspection.page_style import STYLE

PLURALS = {"error": "errors", "warning": "warnings", "note": "notes"}
_SIDES = (0, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024)
_MAX_CHART_CLASSES = 30

Picture = tuple[str, list[bytes]]
"""Caption, and one or two JPEG images."""


def make_page(
    data: InspectedData,
    findings: Sequence[InspectionFinding],
    pictures: Mapping[int, Sequence[Picture]],
    report: Mapping[str, Any],
) -> str:
    """Returns the page. `pictures` are by the position of their finding; `report` is what the JSON file contains."""
    counts = report["counts"]
    title = "Inspection of " + ", ".join(sorted({str(split.dataset.path.parent) for split in data.splits}))
    totals = "".join(
        f'<a class="{severity}" href="#{severity}"><b>{counts[severity]}</b>'
        f"{PLURALS[severity] if counts[severity] != 1 else severity}</a>"
        for severity in SEVERITIES
    )
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">Compared with the settings of {escape(report["preset"])}. '
            f"{len(report['passed'])} of {len(CHECKS)} checks found nothing.</p>",
            f'<nav class="counts">{totals}</nav>',
            "<h2>Splits</h2>",
            _split_table(report["splits"]),
            *_finding_sections(findings, pictures),
            f"<h2>Distributions {_legend(data)}</h2>",
            _charts(data, report["splits"]),
            _passed(report["passed"]),
            "</main></body></html>\n",
        ]
    )


def _legend(data: InspectedData) -> str:
    keys = (f'<span class="key s{number % 4}"></span>{escape(split.name)}' for number, split in enumerate(data.splits))
    return f'<small class="soft">{"".join(keys)}</small>'


def _split_table(splits: Sequence[Mapping[str, Any]]) -> str:
    rows: list[tuple[str, list[str]]] = [
        ("Used for", [split["role"] for split in splits]),
        ("Images", [f"{split['images']:,}" for split in splits]),
        ("without objects", [f"{split['images_without_objects']:,}" for split in splits]),
        ("Objects", [f"{split['objects']:,}" for split in splits]),
        ("with a mask", [f"{split['objects_with_mask']:,}" for split in splits]),
        ("Crowds", [f"{split['crowds']:,}" for split in splits]),
        ("Classes with objects", [_used(split["classes"]) for split in splits]),
        ("Objects an image: least, median, most", [_three(split["objects_per_image"]) for split in splits]),
        ("Image sizes", [_sizes(split["image_sizes"]) for split in splits]),
        ("Object side at the input: 10 %, median, 90 %", [_inner(split["object_side_at_input"]) for split in splits]),
        ("Best anchor IoU: 10 %, median, 90 %", [_inner(split["best_anchor_iou"]) for split in splits]),
        ("Canvas filled", [_percent(split["share_of_canvas_filled"]) for split in splits]),
    ]
    head = "".join(
        f"<th>{escape(split['name'])}<br><code class='soft'>{escape(split['path'])}</code></th>" for split in splits
    )
    body = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>" for name, values in rows
    )
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _used(classes: Mapping[str, int]) -> str:
    return f"{sum(count > 0 for count in classes.values())} of {len(classes)}"


def _three(values: Sequence[float] | None) -> str:
    return "-" if values is None else ", ".join(f"{values[index]:g}" for index in (0, 2, 4))


def _inner(values: Sequence[float] | None) -> str:
    return "-" if values is None else ", ".join(f"{values[index]:.3g}" for index in (1, 2, 3))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _sizes(sizes: Sequence[Mapping[str, int]]) -> str:
    named = [f"{size['width']} x {size['height']} ({size['images']:,})" for size in sizes[:4]]
    return ", ".join(named) + (f" and {len(sizes) - 4:,} other sizes" if len(sizes) > 4 else "")


def _finding_sections(findings: Sequence[InspectionFinding], pictures: Mapping[int, Sequence[Picture]]) -> list[str]:
    sections = []
    for severity in SEVERITIES:
        cards = [
            _card(finding, pictures.get(position, ()))
            for position, finding in enumerate(findings)
            if finding.severity == severity
        ]
        empty = f'<p class="ok">No {PLURALS[severity]}.</p>'
        sections.append(f'<h2 id="{severity}">{PLURALS[severity].capitalize()}</h2>{"".join(cards) or empty}')
    return sections


def _card(finding: InspectionFinding, pictures: Sequence[Picture]) -> str:
    check = CHECKS[finding.check]
    figures = "".join(_figure(caption, images) for caption, images in pictures)
    more = len(finding.examples) - len(pictures)
    rest = f'<p class="soft">{more:,} more in report.json.</p>' if pictures and more > 0 else ""
    return (
        f'<article class="card {finding.severity}"><div class="head"><span class="badge {finding.severity}">'
        f"{finding.severity}</span><h3>{escape(check.title)}</h3>"
        f'<code class="soft">{finding.check}</code></div><p>{escape(finding.text)}</p>'
        f'<p class="soft"><b>What to do:</b> {escape(check.remedy)}</p>'
        f'<div class="pictures">{figures}</div>{rest}</article>'
    )


def _figure(caption: str, images: Sequence[bytes]) -> str:
    inlined = "".join(
        f'<img alt="{escape(caption)}" src="data:image/jpeg;base64,{base64.b64encode(image).decode()}">'
        for image in images
    )
    kind = ' class="pair"' if len(images) > 1 else ""
    return f"<figure{kind}><div>{inlined}</div><figcaption>{escape(caption)}</figcaption></figure>"


def _charts(data: InspectedData, splits: Sequence[Mapping[str, Any]]) -> str:
    is_object = [~split.objects.is_crowd for split in data.splits]
    names = [split.name for split in data.splits]
    counts = [split.counts for split in data.splits]
    sides = [network_sides(split)[own] for split, own in zip(data.splits, is_object, strict=True)]
    ious = [anchor_ious(split, data.config)[own] for split, own in zip(data.splits, is_object, strict=True)]
    edges = integer_edges(counts)
    iou_edges = np.linspace(0, 1, 11).tolist()
    classes = {name: 0 for split in splits for name in split["classes"]}
    for split in splits:
        for name, count in split["classes"].items():
            classes[name] += count
    ordered = sorted(classes, key=lambda name: -classes[name])
    rows = [Series(split["name"], [split["classes"].get(name, 0) for name in ordered]) for split in splits]
    shown = f" (the {_MAX_CHART_CLASSES} most frequent of {len(ordered)})" if len(ordered) > _MAX_CHART_CLASSES else ""
    low, high = data.config.targets.rpn_background_iou, data.config.targets.rpn_foreground_iou
    charts = [
        ("Objects in an image", draw_histogram(bin_values(list(zip(names, counts, strict=True)), edges), "objects")),
        (
            f"Side of objects at the network's input (cells of {finest_stride(data.config)} pixels)",
            draw_histogram(bin_values(list(zip(names, sides, strict=True)), _SIDES), "pixels"),
        ),
        (
            f"Best anchor of each box (background below {low:g}, foreground from {high:g})",
            draw_histogram(bin_values(list(zip(names, ious, strict=True)), iou_edges), "IoU"),
        ),
        (f"Objects of each class{shown}", draw_rows(ordered, rows)),
    ]
    cards = "".join(f'<div class="chart"><h3>{escape(title)}</h3>{svg}</div>' for title, svg in charts)
    return f'<div class="charts">{cards}</div>'


def _passed(passed: Sequence[str]) -> str:
    items = "".join(
        f"<li><code>{check}</code> <span class='soft'>{escape(CHECKS[check].looks_for)}</span></li>" for check in passed
    )
    return (
        f"<h2>Checks that found nothing</h2><details><summary>{len(passed)} checks</summary><ul>{items}</ul></details>"
    )
