"""Tables and plots of the scores of runs that differ in one choice: mean and spread over seeds, paired by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Scores = Mapping[str, Mapping[int, float]]
"""AP in 0..1 by variant and seed."""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper about two variants: the first scores higher than the second."""

    better: str
    worse: str
    metric: str
    """Name of the metric, such as "mask AP"."""
    source: str
    """Place and scores in the paper."""


@dataclass(frozen=True)
class ComparedClaim:
    """A claim with our differences, one for each seed with which both variants were trained."""

    claim: Claim
    differences: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """`confirmed` if all differences are positive, `not confirmed` if their mean is not, else `undecided`."""
        if not self.differences:
            return "not measured"
        if min(self.differences) > 0:
            return "confirmed"
        return "undecided" if np.mean(self.differences) > 0 else "not confirmed"


def compare(claim: Claim, scores: Scores) -> ComparedClaim:
    """Returns the claim with the paired differences of the scores, which have to be in the claim's metric."""
    better, worse = scores.get(claim.better, {}), scores.get(claim.worse, {})
    return ComparedClaim(claim, tuple(better[seed] - worse[seed] for seed in sorted(better.keys() & worse.keys())))


def mean_and_spread(values: Sequence[float]) -> str:
    """Returns `30.3 ± 0.4` in points of AP: mean and sample standard deviation; the latter not for one value."""
    points = 100 * np.asarray(values, np.float64)
    return f"{points.mean():.1f}" if len(points) < 2 else f"{points.mean():.1f} ± {points.std(ddof=1):.1f}"


def score_table(by_metric: Mapping[str, Scores], variants: Sequence[str]) -> str:
    """Returns a Markdown table of mean ± standard deviation over seeds, in points, by variant (row) and metric."""
    lines = [f"| variant | seeds | {' | '.join(by_metric)} |", "|---" * (len(by_metric) + 2) + "|"]
    for variant in variants:
        columns = [list(scores.get(variant, {}).values()) for scores in by_metric.values()]
        cells = [mean_and_spread(values) if values else "-" for values in columns]
        lines.append(f"| {variant} | {max(map(len, columns), default=0)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def finding_table(findings: Sequence[ComparedClaim]) -> str:
    """Returns a Markdown table of claims with their source, our difference in points and the verdict."""
    lines = ["| claim | metric | paper | difference, by seed | verdict |", "|---|---|---|---|---|"]
    for finding in findings:
        claim, points = finding.claim, [100 * value for value in finding.differences]
        shown = f"{np.mean(points):+.1f} ({', '.join(f'{value:+.1f}' for value in points)})" if points else "-"
        row = (f"{claim.better} > {claim.worse}", claim.metric, claim.source, shown, finding.verdict)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def draw_scores(path: Path, panels: Mapping[str, Scores], variants: Sequence[str]) -> None:
    """Writes a PNG with a panel for each metric, with a dot for each seed and a bar at the mean of each variant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(1 + 4.2 * len(panels), 0.6 + 0.42 * len(variants)), sharey=True, squeeze=False
    )
    for axis, (title, scores) in zip(axes[0], panels.items(), strict=True):
        _draw_panel(axis, title, scores, variants)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw_panel(axis: Any, title: str, scores: Scores, variants: Sequence[str]) -> None:
    for row, variant in enumerate(variants):
        points = 100 * np.array(list(scores.get(variant, {}).values()), np.float64)
        if len(points):
            axis.plot(points, np.full(len(points), row), "o", color="tab:blue", alpha=0.6)
            axis.plot([points.mean()] * 2, [row - 0.3, row + 0.3], color="black")
    axis.set_yticks(range(len(variants)), variants)
    axis.set_ylim(len(variants) - 0.5, -0.5)
    axis.set_title(title)
    axis.grid(axis="x", alpha=0.4)
