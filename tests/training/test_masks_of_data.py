"""Training data with objects without a mask: refused if a mask head would learn nothing, otherwise counted once."""

from dataclasses import replace

import pytest

from mrcnn_jax.errors import ConfigError
from mrcnn_jax.training import data_checks, loop, validation
from tests.training.test_loop import CONFIG, FakeData, with_train
from tests.training.test_loop import world as world


def make_data(name: str, num_with_mask: int, num_without_mask: int) -> FakeData:
    data = FakeData(name)
    data.num_with_mask, data.num_without_mask = num_with_mask, num_without_mask
    data.has_no_masks = num_with_mask == 0
    return data


def test_data_without_any_mask_is_refused_for_a_mask_head_only(world, tmp_path, monkeypatch):
    boxes_only = make_data("train", 0, 7)
    monkeypatch.setattr(data_checks, "open_dataset", lambda spec: boxes_only)
    with pytest.raises(ConfigError, match=r"^train: none of its 7 objects has a mask, .* Pass --model\.no-masks "):
        loop.train(CONFIG, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
    without_head = replace(CONFIG, model=replace(CONFIG.model, masks=False))
    assert data_checks.check_masks(without_head, boxes_only, boxes_only) == []


def test_objects_without_mask_are_counted_before_the_first_step(world, tmp_path, monkeypatch, capsys):
    data = {"train": make_data("train", 30, 7), "val": make_data("val", 0, 4)}
    monkeypatch.setattr(data_checks, "open_dataset", data.__getitem__)
    loop.train(with_train(num_steps=2), tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("have no mask") == 2 and printed.index("have no mask") < printed.index("step")
    assert "train: 7 of 37 objects have no mask. They train boxes and classes, but not masks.\n" in printed
    assert "val: 4 of 4 objects have no mask. Masks are not scored, and box AP decides which step is best.\n" in printed
    (line,) = data_checks.check_masks(CONFIG, FakeData("train"), make_data("val", 30, 7))
    assert line == "val: 7 of 37 objects have no mask. Mask AP ignores them."


@pytest.mark.parametrize(("masks", "boxes", "chosen"), [(0.2, 0.3, 0.2), (None, 0.3, 0.3), (0.0, 0.3, 0.0)])
def test_box_ap_decides_if_there_is_no_mask_ap(masks, boxes, chosen):
    assert validation.choose_score({"segm": {"AP": masks}, "bbox": {"AP": boxes}}) == chosen
    assert validation.choose_score({"bbox": {"AP": boxes}}) == boxes and validation.choose_score({}) is None
