"""Warnings during a run: each at its condition alone, once, with what to do."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mrcnn_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from mrcnn_jax.structures import GroundTruth
from mrcnn_jax.training import advice
from mrcnn_jax.training.advice import FOREGROUND_STEPS, Advice

CONFIG = Config(train=TrainConfig(warmup_steps=10), data=DataConfig(mask_size=28))


def watch(config: Config = CONFIG) -> tuple[Advice, list[str]]:
    lines: list[str] = []
    return Advice(config, lines.append), lines


def run_steps(watched: Advice, steps: range, foreground: float, proposals: float) -> None:
    for step in steps:
        watched.check_step(step, {"foreground_rois": foreground, "foreground_proposals": proposals})


@pytest.mark.parametrize(
    ("foreground", "proposals", "message"),
    [
        (0.0, 0.0, r"none of their images has an object.* --annotated-only"),
        (2.5, 0.0, r"none overlaps an object with IoU 0\.5.*--model\.anchor-sizes 32,64,128,256,512"),
        (2.5, 0.1, None),
    ],
)
def test_foreground_is_missed_after_many_steps_beyond_the_warm_up(foreground, proposals, message):
    watched, lines = watch()
    run_steps(watched, range(1, 10 + FOREGROUND_STEPS), foreground, proposals)
    assert lines == []
    run_steps(watched, range(10 + FOREGROUND_STEPS, 3 * FOREGROUND_STEPS), foreground, proposals)
    assert len(lines) == (message is not None)
    if message is not None:
        assert lines[0].startswith("Warning: ")
        assert re.search(message, lines[0])


def test_one_step_with_foreground_begins_the_count_anew():
    watched, lines = watch()
    run_steps(watched, range(11, 10 + FOREGROUND_STEPS), 2.0, 0.0)
    run_steps(watched, range(10 + FOREGROUND_STEPS, 11 + FOREGROUND_STEPS), 2.0, 1.0)
    run_steps(watched, range(11 + FOREGROUND_STEPS, 10 + 2 * FOREGROUND_STEPS), 2.0, 0.0)
    assert lines == []
    watched.check_step(9999, {"loss/total": 1.0})  # a model without these counts


def test_data_that_is_slower_than_the_steps_is_noticed_once():
    watched, lines = watch()
    watched.check_waiting(advice.WAITING_SECONDS - 1, advice.WAITING_SECONDS - 1)  # too early
    watched.check_waiting(1000.0, 240.0)
    assert lines == []
    watched.check_waiting(1000.0, 400.0)
    watched.check_waiting(2000.0, 800.0)
    (line,) = lines
    assert "40% of the time" in line and "--data.num-threads (now 4" in line and "--data.prefetch (now 4)" in line


def boxes_of(side: float, count: int = 100, has_mask: bool = True) -> GroundTruth:
    """Two images with so many boxes each, half of whose slots are used."""
    boxes = np.tile(np.array([1, 1, 1 + side, 2], np.float32), (2, 2 * count, 1))
    valid = np.tile(np.arange(2 * count) < count, (2, 1))
    return GroundTruth(
        boxes, valid.astype(np.int32), np.zeros((2, 2 * count, 1, 1), np.uint8), valid, has_mask=valid & has_mask
    )


@pytest.mark.parametrize(
    ("data", "side", "has_mask", "is_noticed"),
    [
        (28, 29.0, True, True),
        (28, 28.0, True, False),  # as large as the bitmap
        (56, 100.0, True, False),  # twice the size of the masks
        (28, 100.0, False, False),
    ],
)
def test_objects_larger_than_coarse_bitmaps_are_noticed_once(data, side, has_mask, is_noticed):
    watched, lines = watch(replace(CONFIG, data=DataConfig(mask_size=data)))
    for _ in range(2):
        watched.check_bitmaps(boxes_of(side, has_mask=has_mask))
    assert lines == []  # too few objects
    for _ in range(5):
        watched.check_bitmaps(boxes_of(side, has_mask=has_mask))
    assert len(lines) == is_noticed
    assert not is_noticed or ("600 of the first 600 objects" in lines[0] and "--data.mask-size 56" in lines[0])


def test_few_large_objects_and_models_without_masks_are_left_alone():
    watched, lines = watch()
    watched.check_bitmaps(boxes_of(50.0, 20))
    for _ in range(5):
        watched.check_bitmaps(boxes_of(10.0))
    without, others = watch(replace(CONFIG, model=ModelConfig(masks=False)))
    for _ in range(5):
        without.check_bitmaps(boxes_of(50.0))
    assert lines == others == []
