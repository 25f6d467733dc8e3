"""From weights of one list of classes to another: what is shared by name is taken, the rest is listed by name."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.config import ModelConfig, TestConfig
from mrcnn_jax.named_leaves import named_leaves
from mrcnn_jax.weights.class_rows import adopt_rows, outputs_of_a_class, shared_classes
from mrcnn_jax.weights.folder import save_weights
from mrcnn_jax.weights.init_from import initialise
from tests.tiny import MODEL, make_variables

THEIRS = ("person", "car", "N/A", "dog")
OURS = ("dog", "rider", "person")
SOURCE = dataclasses.replace(MODEL, num_classes=4)
PAIRS = {0: 0, 1: 4, 3: 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    categories = [Category(index, name) for index, name in enumerate(THEIRS, start=1)]
    save_weights(
        tmp_path / "weights",
        make_variables(SOURCE),
        model_config=SOURCE,
        test_config=TestConfig(),
        categories=categories,
    )
    return tmp_path


def test_labels_are_paired_by_name() -> None:
    assert shared_classes(OURS, THEIRS) == PAIRS
    assert shared_classes(("N/A",), THEIRS) == {0: 0}


def test_every_leaf_but_those_of_classes_is_the_source_bit_for_bit(folder: Path) -> None:
    fresh = make_variables(MODEL, seed=1)
    found, report = initialise(fresh, str(folder), MODEL, OURS)
    leaves, given, before = named_leaves(found), named_leaves(make_variables(SOURCE)), named_leaves(fresh)
    heads = {
        f"params/{layer}/{kind}" for layer in ("box_head/logits", "box_head/deltas", "mask_head") for kind in KINDS
    }
    assert set(report.by_class) == heads and report.fresh == () and report.new_classes == ("rider",)
    for name, leaf in leaves.items():
        if name not in heads:
            np.testing.assert_array_equal(leaf, given[name], err_msg=name)
            continue
        per_class = outputs_of_a_class(name)
        for label in range(4):
            here = slice(label * per_class, (label + 1) * per_class)
            there = slice(PAIRS.get(label, 0) * per_class, (PAIRS.get(label, 0) + 1) * per_class)
            expected = given[name][..., there] if label in PAIRS else before[name][..., here]
            np.testing.assert_array_equal(leaf[..., here], expected, err_msg=f"{name} {label}")
    text = report.describe("weights")
    assert "taken for classes of the same name: box_head/deltas, box_head/logits, mask_head/bias, mask_head/ker" in text
    assert text.endswith("mask_head/kernel (new: rider).")


KINDS = ("kernel", "bias")


def test_as_many_classes_of_other_names_are_not_taken_for_the_same(folder: Path) -> None:
    # The shapes agree: without names a dog's outputs would become a cat's.
    fresh = make_variables(SOURCE, seed=1)
    found, report = initialise(fresh, str(folder), SOURCE, ("cat", "cow", "tree", "sky"))
    name = "params/box_head/logits/kernel"
    np.testing.assert_array_equal(named_leaves(found)[name], named_leaves(fresh)[name])
    assert name in report.fresh and report.by_class == ()
    assert "re-initialised: box_head/deltas, box_head/logits, mask_head/bias, mask_head/kernel" in report.describe("w")
    same, report = initialise(fresh, str(folder), SOURCE, THEIRS)
    np.testing.assert_array_equal(named_leaves(same)[name], named_leaves(make_variables(SOURCE))[name])
    assert report.fresh == ()


def test_mlp_and_agnostic_masks() -> None:
    rng = np.random.default_rng(0)
    fresh = {"params/mask_head/logits/kernel": rng.normal(size=(5, 2 * 2 * 4))}
    given = {"params/mask_head/logits/kernel": rng.normal(size=(5, 2 * 2 * 5))}
    found = adopt_rows(fresh, given, OURS, THEIRS)["params/mask_head/logits/kernel"].reshape(5, 4, 4)
    theirs = given["params/mask_head/logits/kernel"].reshape(5, 4, 5)
    for label in PAIRS:
        np.testing.assert_array_equal(found[..., label], theirs[..., PAIRS[label]])
    np.testing.assert_array_equal(found[..., 2], fresh["params/mask_head/logits/kernel"].reshape(5, 4, 4)[..., 2])
    wider = {"params/mask_head/logits/kernel": rng.normal(size=(6, 2 * 2 * 5))}
    assert adopt_rows(fresh, wider, OURS, THEIRS) == {}
    one_map = {"params/mask_head/kernel": np.ones((5, 1))}
    assert adopt_rows(one_map, one_map, OURS, THEIRS) == {}
    assert ModelConfig(class_agnostic_masks=True).num_mask_channels == 1
