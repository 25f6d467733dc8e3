"""Bar charts as inline SVG, which takes its colours from the style of the page."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 420, 150
_BOTTOM, _LEFT, _TOP = 34, 48, 12
_MAX_ROWS = 30
_ROW = 20


class Series(NamedTuple):
    """The values of one split: a bar for each label."""

    name: str
    values: Sequence[float]


class Histogram(NamedTuple):
    """Labels of bins, and the share of the values of each split that falls into them."""

    labels: tuple[str, ...]
    series: tuple[Series, ...]


def bin_values(
    values: Sequence[tuple[str, np.ndarray]], edges: Sequence[float], labels: Sequence[str] | None = None
) -> Histogram:
    """Returns the shares in percent of each split's values in the bins between edges; the last bin is closed.

    Values below the first or above the last edge are counted in the first and in the last bin.
    """
    series = []
    for name, each in values:
        clipped = np.clip(each, edges[0], edges[-1])
        counts = np.histogram(clipped, np.asarray(edges))[0]
        series.append(Series(name, (100 * counts / max(len(each), 1)).tolist()))
    named = tuple(labels) if labels else tuple(f"{edge:g}" for edge in edges[:-1])
    return Histogram(named, tuple(series))


def integer_edges(values: Sequence[np.ndarray], num_bins: int = 16) -> list[float]:
    """Returns edges of at most `num_bins` bins of equal, whole width from 0 on that contain all values."""
    top = max([int(each.max()) for each in values if len(each)], default=0)
    width = max(1, -(-(top + 1) // num_bins))
    return [float(edge) for edge in range(0, top + width + 1, width)]


def draw_histogram(histogram: Histogram, unit: str) -> str:
    """Returns a chart of vertical bars, those of the splits beside each other, as SVG."""
    highest = max((value for series in histogram.series for value in series.values), default=0) or 1
    plot_w, plot_h = WIDTH - _LEFT - 4, HEIGHT - _BOTTOM - _TOP
    slot = plot_w / max(len(histogram.labels), 1)
    bar = slot * 0.86 / max(len(histogram.series), 1)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for share in (0.0, 0.5, 1.0):
        y = _TOP + plot_h * (1 - share)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - 4}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_percent(share * highest)}</text>'
        )
    for number, series in enumerate(histogram.series):
        for index, value in enumerate(series.values):
            height = plot_h * value / highest
            x = _LEFT + index * slot + slot * 0.07 + number * bar
            title = f"{series.name}, {unit} from {histogram.labels[index]}: {value:.1f} %"
            parts.append(
                f'<rect class="s{number % 4}" x="{x:.1f}" y="{_TOP + plot_h - height:.1f}" width="{bar:.1f}" '
                f'height="{height:.1f}"><title>{escape(title)}</title></rect>'
            )
    step = -(-len(histogram.labels) // 9)
    for index in range(0, len(histogram.labels), step):
        x = _LEFT + index * slot
        label = escape(histogram.labels[index])
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - _BOTTOM + 14}" text-anchor="middle">{label}</text>')
    parts.append(
        f'<text class="tick" x="{_LEFT + plot_w / 2:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(unit)}</text>'
    )
    return "".join([*parts, "</svg>"])


def _percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


def draw_rows(labels: Sequence[str], series: Sequence[Series]) -> str:
    """Returns a chart of horizontal bars with their numbers, at most 30 rows of labels, as SVG."""
    shown = labels[:_MAX_ROWS]
    highest = max((value for each in series for value in each.values), default=0) or 1
    bar = max(5.0, (_ROW - 6) / max(len(series), 1))
    row = max(_ROW, bar * len(series) + 6)
    numbers = [" / ".join(f"{each.values[index]:,.0f}" for each in series) for index in range(len(shown))]
    left, right = 130, 12 + 6.5 * max(map(len, numbers), default=0)  # pixels a digit
    parts = [f'<svg viewBox="0 0 {WIDTH} {row * len(shown) + 4:.0f}" role="img">']
    for index, label in enumerate(shown):
        y = index * row + 3
        middle = y + row / 2 + 1
        short = label if len(label) <= 19 else label[:17] + "..."
        parts.append(f'<text class="label" x="{left - 6}" y="{middle:.1f}" text-anchor="end">{escape(short)}</text>')
        widths = [(WIDTH - left - right) * each.values[index] / highest for each in series]
        for number, (each, width) in enumerate(zip(series, widths, strict=True)):
            title = f"{each.name}, {label}: {each.values[index]:,.0f}"
            parts.append(
                f'<rect class="s{number % 4}" x="{left}" y="{y + number * bar:.1f}" width="{max(width, 0.5):.1f}" '
                f'height="{bar - 1:.1f}"><title>{escape(title)}</title></rect>'
            )
        parts.append(f'<text class="tick" x="{left + 5 + max(widths):.1f}" y="{middle:.1f}">{numbers[index]}</text>')
    return "".join([*parts, "</svg>"])
