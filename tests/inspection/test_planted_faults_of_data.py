"""Fifteen planted faults are found where they are, five of them between splits, and good data has none."""

import re
from pathlib import Path

import pytest

from mrcnn_jax.inspection.catalogue import CHECKS, InspectionFinding
from mrcnn_jax.inspection.inspected_split import InspectedData, find_splits, inspect_splits
from mrcnn_jax.inspection.run_checks import run_checks
from tests.inspection.planted_set import CONFIG, FAULTS, make_splits, plant
from tests.paths import ROOT


def inspect(root: Path) -> tuple[InspectedData, list[InspectionFinding]]:
    data = inspect_splits(find_splits([str(root / "data")]), CONFIG)
    return data, run_checks(data)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[InspectedData, list[InspectionFinding]]:
    root = tmp_path_factory.mktemp("planted")
    train, val = make_splits(root)
    plant(train, val)
    train.prepare()
    val.prepare()
    return inspect(root)


def test_good_data_has_no_findings(tmp_path: Path) -> None:
    for split in make_splits(tmp_path):
        split.prepare()
    data, findings = inspect(tmp_path)
    assert findings == [] and [split.name for split in data.splits] == ["train", "val"]


@pytest.mark.parametrize("check", FAULTS)
def test_a_planted_fault_is_found_where_it_is(
    check: str, planted: tuple[InspectedData, list[InspectionFinding]]
) -> None:
    split, image = FAULTS[check]
    (finding,) = [each for each in planted[1] if each.check == check]
    assert split in finding.splits
    if image >= 0:
        assert (split, image) in {(each.split, each.image) for each in finding.examples}
        assert (
            finding.count == len(finding.examples) == (2 if check == "no-anchor" else 1)
        )  # the smallest has none, too


def test_errors_are_the_planted_ones_alone(planted: tuple[InspectedData, list[InspectionFinding]]) -> None:
    findings = planted[1]
    assert len(FAULTS) == 15 and sum(check.startswith("split-") for check in FAULTS) == 5
    assert {each.check for each in findings if each.severity == "error"} == {"split-copies", "split-class-names"}
    # The image of 16 bits is also found within its split.
    follow = {"deep-image", "mixed-depth"}
    assert {each.check for each in findings} == set(FAULTS) | follow


def test_examples_name_the_objects(planted: tuple[InspectedData, list[InspectionFinding]]) -> None:
    by_check = {each.check: each.examples for each in planted[1]}
    assert by_check["repeated-object"][0].objects == (0, 3)
    assert by_check["contradicting-object"][0].text == "bolt and nut"
    assert by_check["too-small"][0].objects == by_check["no-anchor"][1].objects == (3,)
    (copy,) = by_check["split-copies"]
    assert copy.other is not None and (copy.other.split, copy.other.image) == ("train", 15)
    (near,) = by_check["split-similar"]
    assert near.other is not None and (near.other.split, near.other.image) == ("train", 16)
    (many,) = [each.text for each in planted[1] if each.check == "too-many-objects"]
    assert "so that 3 of 84 objects are lost; --data.max-objects 11 keeps all" in many
    (twin,) = by_check["copied-image"]
    assert twin.other is not None and twin.other.image == 7


def test_every_check_is_documented_and_can_be_told_apart() -> None:
    documented = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs" / "data_doctor.md").read_text(), re.MULTILINE)
    assert documented == list(CHECKS)
    titles = [check.title for check in CHECKS.values()]
    assert len(set(titles)) == len(titles) > 40
    with pytest.raises(ValueError, match="Expected the id of a check"):
        InspectionFinding("no-such-check", "error", (), "")
