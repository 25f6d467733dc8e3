"""Before the first step: nothing to learn is refused, what will be left out is counted, and categories are matched."""

from dataclasses import replace

import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.training import data_checks, loop
from tests.training.test_loop import CONFIG, FakeData
from tests.training.test_loop import world as world


def make_data(name: str = "train", **facts: object) -> FakeData:
    data = FakeData(name)
    for key, value in facts.items():
        setattr(data, key, value)
    return data


@pytest.mark.parametrize(
    ("num_crowds", "message"),
    [
        (24, r"nothing to learn from, since all 24 objects are crowds .*--crowds objects"),
        (0, "nothing to learn from, since no image has an object"),
    ],
)
def test_nothing_to_learn_is_refused_before_the_first_step(world, tmp_path, monkeypatch, num_crowds, message):
    empty = make_data(num_objects=np.zeros(100, np.int64), num_crowds=num_crowds)
    monkeypatch.setattr(data_checks, "open_dataset", lambda spec: empty)
    with pytest.raises(DataError, match=message):
        loop.train(CONFIG, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_objects_beyond_the_slots_are_counted(world, tmp_path, monkeypatch, capsys):
    crowded = make_data(num_objects=np.array([3, 120, 100, 101]))
    monkeypatch.setattr(data_checks, "open_dataset", lambda spec: crowded)
    assert CONFIG.data.max_objects == 100
    loop.train(CONFIG, tmp_path)
    printed = capsys.readouterr().out
    line = "2 images have more than 100 objects; the smallest are left out, 21 of 324. --data.max-objects 120 keeps all"
    assert line in printed and printed.index(line) < printed.index("step")
    assert data_checks.check_objects(CONFIG, make_data(num_objects=None)) == []  # an older folder


def test_categories_are_matched_by_name_and_differences_named():
    train = make_data()  # 3 cat, 7 dog
    same = make_data("val", categories=(Category(1, "Dog"), Category(2, "cat")))
    assert data_checks.check_data(CONFIG, train, same)[1] == []
    more = make_data("val", categories=(Category(1, "dog"), Category(2, "bird")))
    (line,) = data_checks.check_data(CONFIG, train, more)[1]
    assert line == (
        "Scored on the 1 categories that training data and validation data share by name. "
        "Only in the training data: 1 (cat). Only in the validation data: 1 (bird)."
    )
    with pytest.raises(
        ConfigError, match=r"No category name is shared \(training data: cat, dog; validation data: bird\)"
    ):
        data_checks.check_data(CONFIG, train, make_data("val", categories=(Category(1, "bird"),)))


def test_the_depth_of_the_training_data_becomes_that_of_the_run():
    deep = make_data(depth="0,4095")
    assert data_checks.check_data(CONFIG, deep, None)[0].test.depth == "0,4095"
    asked = replace(CONFIG, test=replace(CONFIG.test, depth="full"))
    assert data_checks.check_data(asked, deep, None)[0].test.depth == "full"
    with pytest.raises(ConfigError, match="prepared with --depth 0,4095, val with --depth auto"):
        data_checks.check_data(CONFIG, deep, make_data("val"))
