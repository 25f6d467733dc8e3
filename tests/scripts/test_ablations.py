"""Tables of runs that differ in one choice: paired by seed, honest where seeds are missing or disagree."""

from pathlib import Path

import numpy as np
from _ablations import Claim, compare, draw_scores, finding_table, mean_and_spread, score_table

SCORES = {"RoIAlign": {0: 0.30, 1: 0.32, 2: 0.28}, "RoIPool": {0: 0.25, 1: 0.33, 3: 0.1}, "MLP": {}}


def test_pairs_by_seed() -> None:
    finding = compare(Claim("RoIAlign", "RoIPool", "mask AP", "table 2c"), SCORES)
    np.testing.assert_allclose(finding.differences, [0.05, -0.01])
    assert finding.verdict == "undecided"  # right on average, but not with every seed
    assert compare(Claim("RoIPool", "RoIAlign", "mask AP", ""), SCORES).verdict == "not confirmed"
    assert compare(Claim("RoIAlign", "MLP", "mask AP", ""), SCORES).verdict == "not measured"
    assert compare(Claim("a", "b", "", ""), {"a": {0: 0.2, 1: 0.3}, "b": {0: 0.1, 1: 0.2}}).verdict == "confirmed"


def test_tables_are_markdown_in_points() -> None:
    table = score_table({"mask AP": SCORES}, list(SCORES)).splitlines()
    assert table[0] == "| variant | seeds | mask AP |" and table[1].count("---") == 3
    assert table[2] == "| RoIAlign | 3 | 30.0 ± 2.0 |" and table[4] == "| MLP | 0 | - |"
    findings = [compare(Claim("RoIAlign", name, "mask AP", "table 2"), SCORES) for name in ("RoIPool", "MLP")]
    rows = finding_table(findings).splitlines()
    assert rows[2] == "| RoIAlign > RoIPool | mask AP | table 2 | +2.0 (+5.0, -1.0) | undecided |"
    assert rows[3].endswith("| - | not measured |")
    assert mean_and_spread([0.1234]) == "12.3"


def test_the_plot_is_a_image(tmp_path: Path) -> None:
    draw_scores(tmp_path / "plot.png", {"mask AP": SCORES, "box AP": {}}, list(SCORES))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
