"""A run's keypoint settings are checked against its data before it starts, and stay when it resumes."""

from dataclasses import replace

import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import Config, DataConfig, ModelConfig, TestConfig
from mrcnn_jax.errors import ConfigError
from mrcnn_jax.training.settings import check_settings, complete_config, run_settings

HAND = (Category(1, "cup"), Category(2, "hand", ("wrist", "left", "right")))
CONFIG = Config(model=ModelConfig(num_classes=0, num_keypoints=3), data=DataConfig(train="data/hands"))


def complete(**model: object) -> Config:
    return complete_config(replace(CONFIG, model=replace(CONFIG.model, **model)), HAND, num_devices=1)


def test_one_value_for_each_keypoint_is_fine_and_so_is_none() -> None:
    assert complete().model.num_classes == 2
    flipping = complete(keypoint_flip=(0, 2, 1))
    assert flipping.model.keypoint_flip == (0, 2, 1)  # which weights carry
    test = TestConfig(keypoint_sigmas=(0.1, 0.1, 0.2))
    assert complete_config(replace(CONFIG, test=test), HAND, num_devices=1).test == test


def test_another_number_is_refused_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^--model.keypoint-flip has 2 values, but data/hands has 3 keypoints\. .*\.$"
    ):
        complete(keypoint_flip=(1, 0))
    with pytest.raises(ConfigError, match=r"^--test.keypoint-sigmas has 4 values, but data/hands has 3 keypoints"):
        complete_config(replace(CONFIG, test=TestConfig(keypoint_sigmas=(0.1,) * 4)), HAND, num_devices=1)
    plain = replace(CONFIG, data=DataConfig(train="data/cups"))
    with pytest.raises(ConfigError, match=r"--model.keypoint-flip has 1 values, but data/cups has 0 keypoints"):
        complete_config(replace(plain, model=ModelConfig(num_classes=1, keypoint_flip=(0,))), HAND[:1], num_devices=1)


def test_flips_need_to_know_left_from_right() -> None:
    paw = (Category(1, "paw", ("L_Toe", "R_Toe", "heel")),)
    config = replace(CONFIG, data=DataConfig(train="data/paws"))
    with pytest.raises(
        ConfigError, match=r"^data/paws: no keypoint is named left or right \(L_Toe, R_Toe, heel, \.\.\.\)"
    ):
        complete_config(config, paw, num_devices=1)
    given = replace(config, model=replace(config.model, keypoint_flip=(1, 0, 2)))
    for fine in (given, replace(config, data=DataConfig(flip_probability=0.0))):
        complete_config(fine, paw, num_devices=1)


def test_different_skeletons_are_in_the_way_of_keypoints_only() -> None:
    mixed = (*HAND, Category(3, "foot", ("left_toe", "heel")))
    with pytest.raises(ConfigError, match="its categories have different keypoints"):
        complete_config(CONFIG, mixed, num_devices=1)
    plain = replace(CONFIG, model=ModelConfig(num_classes=0))
    assert complete_config(plain, mixed, num_devices=1).model.num_classes == 3


def test_a_resumed_run_keeps_its_flip() -> None:
    recorded, current = (
        run_settings(config, fingerprint="a", num_records=1)
        for config in (complete(), complete(keypoint_flip=(0, 2, 1)))
    )
    with pytest.raises(ConfigError, match=r"model.keypoint_flip \[\] -> \[0, 2, 1\]"):
        check_settings(recorded, current, "checkpoint 3")
    before = recorded | {"data.keypoint_flip": [], "test.keypoint_flip": []}  # the fields of older runs
    del before["model.keypoint_flip"]
    check_settings(before, recorded, "checkpoint 3")
