"""The suggestion as a whole: time decides the network, given settings win, and all kinds of data get a valid config."""

from dataclasses import replace

import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import Config
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.recipe.choices import Choices
from mrcnn_jax.recipe.suggest import suggest
from mrcnn_jax.training.settings import complete_config
from tests.recipe.hand_made import SLOW, make_facts, make_input


def test_more_time_or_a_faster_machine_gives_a_larger_network() -> None:
    names = [suggest(make_input(minutes=minutes, num_images=10_000)).network_size.name for minutes in (5, 15, 300)]
    assert names == ["tiny", "small", "medium"]
    fast = replace(SLOW, flops_per_second=4e13)
    assert suggest(make_input(minutes=300, machine=fast, num_images=100_000)).network_size.name == "large"


def test_the_time_is_kept_and_images_shrink_if_it_is_short() -> None:
    long = suggest(make_input(make_facts(side=12.0), minutes=30, num_images=10_000))
    short = suggest(make_input(make_facts(side=12.0), minutes=6, num_images=10_000))
    assert max(short.config.data.short_sides) < max(long.config.data.short_sides)
    assert any("to save time" in note for note in short.notes) and not any("to save" in note for note in long.notes)
    for suggestion, minutes in ((long, 30), (short, 6)):
        plan = suggestion.plan
        assert plan.start_seconds + plan.evaluation_seconds + plan.num_steps * plan.step_seconds <= 60 * minutes
    (note,) = [note for note in suggest(make_input(minutes=1)).notes if "too few" in note]
    assert "--minutes" in note


def test_sizes_slots_and_classes_follow_the_data() -> None:
    facts = make_facts(per_image=130)
    config = suggest(make_input(facts)).config
    assert config.data.max_objects == 132 and config.test.max_detections >= 150
    assert config.model.num_classes == 2 and config.model.norm == "group_norm" and config.model.freeze_at == 0
    assert config.model.masks and config.model.num_keypoints == 0
    assert config.test.short_side > max(config.data.short_sides), "small objects"
    assert complete_config(config, make_input().data.categories, num_devices=2) == config
    crowded = suggest(make_input(make_facts(num_images=3, per_image=600, side=5.0)))
    assert crowded.config.data.max_objects == 500
    assert any("300 objects are beyond data.max_objects 500" in note for note in crowded.notes)


def test_given_settings_win_and_are_taken_into_account() -> None:
    given = {
        "train.batch_size": 6,
        "data.short_sides": (160,),
        "model.anchor_ratios": (0.7,),
        "train.seed": 5,
        "data.max_objects": 7,
        "model.masks": False,
    }
    source = make_input(given=given, num_images=10_000)
    suggestion = suggest(source)
    for name, value in given.items():
        section, key = name.split(".")
        assert getattr(getattr(suggestion.config, section), key) == value
        assert suggestion.choices.reasons[name] == "Given on the command line."
    free = suggest(make_input(num_images=10_000))
    assert max(suggestion.config.data.canvases) <= (192, 224) < max(free.config.data.canvases)
    assert suggestion.config.train.learning_rate > free.config.train.learning_rate, "of a larger batch"
    assert max(suggestion.config.model.anchor_sizes[:1]) < free.config.model.anchor_sizes[0], "of smaller images"
    fewer = suggest(make_input(given={"train.num_steps": 30}))
    assert fewer.config.train.num_steps == 30 > fewer.config.train.warmup_steps
    patient = suggest(make_input(given={"train.patience": 3})).config.train
    assert patient.patience == 3 and patient.eval_every == patient.num_steps // 10


def test_given_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps"):
        suggest(make_input(given={"train.num_steps": 30, "train.warmup_steps": 100}))


def test_every_value_has_a_reason() -> None:
    choices = suggest(make_input(given={"train.seed": 1})).choices
    assert choices.values.keys() == choices.reasons.keys() and len(choices.values) > 40
    assert all(len(reason) > 10 for reason in choices.reasons.values())


def test_keypoints() -> None:
    person = Category(1, "person", ("nose", "left_eye", "right_eye"))
    config = suggest(make_input(categories=[person])).config
    assert config.model.num_keypoints == 3 and config.data.flip_probability == 0.5
    without_sides = suggest(make_input(categories=[Category(1, "box", ("a", "b"))]))
    assert without_sides.config.data.flip_probability == 0
    assert "left and right" in without_sides.choices.reasons["data.flip_probability"]
    complete_config(without_sides.config, [Category(1, "box", ("a", "b"))], num_devices=2)
    two = [person, Category(2, "dog", ("tail",))]
    with pytest.raises(ConfigError, match=r"--model.num-keypoints 0"):
        suggest(make_input(categories=two))
    assert suggest(make_input(categories=two, given={"model.num_keypoints": 0})).config.model.num_keypoints == 0


def test_data_without_masks_or_objects() -> None:
    assert not suggest(make_input(has_masks=False)).config.model.masks
    with pytest.raises(DataError, match="no object"):
        suggest(make_input(make_facts(per_image=0)))
    with pytest.raises(DataError, match="no object"):
        suggest(make_input(make_facts(num_images=0)))


def test_one_image_with_one_object_of_one_class() -> None:
    suggestion = suggest(make_input(make_facts(1, per_image=1), categories=[Category(3, "nut")]))
    assert suggestion.config.model.num_classes == 1 and suggestion.config.data.max_objects == 4
    assert suggestion.plan.num_steps >= 20


def test_rare_classes_are_repeated() -> None:
    facts = make_facts(100)
    rare = replace(facts, labels=np.where(np.arange(len(facts.labels)) == 0, 2, 1))
    assert suggest(make_input(rare)).config.data.repeat_threshold == 0.05
    assert suggest(make_input(facts)).config.data.repeat_threshold == 0


def test_pretrained_weights_keep_their_statistics() -> None:
    config = suggest(make_input(given={"train.init_from": "weights.npz"}, minutes=30)).config
    assert (config.model.norm, config.model.freeze_at, config.model.backbone_width) == ("frozen_bn", 2, 64)


def test_choices_build_a_config_of_all_sections() -> None:
    choices = Choices({"train.seed": 3})
    assert choices.choose("data.max_side", 96, "why") == 96 and choices.choose("train.seed", 1, "why") == 3
    expected = Config()
    expected = replace(expected, data=replace(expected.data, max_side=96), train=replace(expected.train, seed=3))
    assert choices.config() == expected
