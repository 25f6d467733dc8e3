"""Parts of the network that compute NaN or infinity are marked, for their image alone; the first one is named."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import TestConfig
from mrcnn_jax.detection.finiteness import (
    MAX_CASCADE,
    PARTS,
    box_head_part,
    features_finite,
    first_part,
    mark,
    rows_finite,
)
from mrcnn_jax.detection.predict import predict
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.named_leaves import named_leaves, replace_leaves
from mrcnn_jax.structures import Detections
from tests import tiny

TEST = TestConfig(score_threshold=0.0, pre_nms_top_n=40, post_nms_top_n=30, max_detections=10, max_candidates=64)
FROZEN = replace(tiny.MODEL, norm="frozen_bn", head_norm="none")
FPN = replace(FROZEN, num_keypoints=2, keypoint_head_dim=16, keypoint_head_convs=1)
CASCADE = replace(FROZEN, box_head_stages=3)
C4 = replace(FROZEN, neck="c4", anchor_sizes=(8.0, 16.0, 32.0), box_pool_size=8, mask_pool_size=8)
DC5 = replace(C4, neck="dc5", masks=False, box_pool_size=7, mask_pool_size=14)
MODELS = {"fpn": FPN, "cascade": CASCADE, "c4": C4, "dc5": DC5}
INPUT_TYPES = {"dc5": np.float32}
SIZES = np.array([(60, 80), (0, 0), (60, 80)], np.int32)


@cache
def program(name: str) -> Callable[..., Detections]:
    """Compiled once for all values that are planted."""
    return jax.jit(lambda *inputs: predict(*inputs, model=MaskRCNN(MODELS[name]), test_config=TEST))


@cache
def variables_of(name: str) -> dict:
    """With small last layers, so that boxes stay in the image."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (0.01 if path[-2].key in ("objectness", "deltas", "logits") else 1.0),
        tiny.make_variables(MODELS[name]),
    )


def make_images(name: str) -> np.ndarray:
    """An image, a filler with garbage in it, and another image."""
    images = np.full((3, 64, 96, 3), 77, INPUT_TYPES.get(name, np.uint8))
    for slot, seed in ((0, 1), (2, 2)):
        images[slot, :60, :80] = tiny.make_batch(1, (60, 80), seed=seed).images[0]
    return images


def run(name: str, variables: dict, images: np.ndarray | None = None) -> tuple[list[str], Detections]:
    """The first part that is not finite in each image, filler left out, and the detections."""
    images = make_images(name) if images is None else images
    found = jax.device_get(program(name)(variables, images, SIZES))
    assert found.not_finite.shape == (3,) and found.not_finite.dtype == np.int32
    assert found.not_finite[1] == 0  # the filler, also where zeros become NaN
    return [first_part(marks) for marks in found.not_finite[[0, 2]].tolist()], found


def plant(name: str, leaf_name: str, value: float) -> dict:
    """The variables with a value in place of one channel of a vector, or of a whole kernel."""
    leaves = named_leaves(variables_of(name))
    leaf = np.array(leaves[leaf_name])
    leaf[..., -1 if leaf.ndim == 1 else slice(None)] = value
    return replace_leaves(variables_of(name), leaves | {leaf_name: leaf})


@pytest.mark.parametrize("name", MODELS)
def test_a_finite_network_is_not_marked(name: str) -> None:
    parts, found = run(name, variables_of(name))
    assert parts == ["", ""] and found.valid[[0, 2]].any(axis=1).all()
    assert not any(np.asarray(leaf[1]).any() for leaf in jax.tree.leaves(found))  # the filler


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("leaf", "part"),
    [
        ("params/backbone/stem/conv/kernel", "the backbone or the FPN"),
        ("frozen/backbone/stem/norm/bias", "the backbone or the FPN"),
        ("params/backbone/layer4_0/conv2/conv/kernel", "the backbone or the FPN"),
        ("params/fpn/lateral5/conv/bias", "the backbone or the FPN"),
        ("params/fpn/output2/conv/kernel", "the backbone or the FPN"),
        ("params/rpn_head/conv/bias", "the RPN"),
        ("params/rpn_head/objectness/bias", "the RPN"),
        ("params/rpn_head/deltas/kernel", "the RPN"),
        ("params/box_head/fc1/kernel", "the box head"),
        ("params/box_head/logits/bias", "the box head"),
        ("params/box_head/deltas/bias", "the box head"),
        ("params/mask_head/conv1/conv/kernel", "the mask head"),
        ("params/mask_head/upconv/bias", "the mask head"),
        ("params/mask_head/kernel", "the mask head"),
        ("params/keypoint_head/conv1/kernel", "the keypoint head"),
        ("params/keypoint_head/kernel", "the keypoint head"),
        ("params/keypoint_head/bias", "the keypoint head"),
    ],
)
def test_the_part_of_a_planted_value_is_named(leaf: str, part: str, value: float) -> None:
    assert run("fpn", plant("fpn", leaf, value))[0] == [part, part]


def test_a_variance_of_0_without_eps_is_named() -> None:
    """What a half-precision file does: every parameter is finite."""
    variance = plant("fpn", "frozen/backbone/layer1_0/conv2/norm/var", -FPN.norm_eps)
    parts, found = run("fpn", variance)
    assert parts == ["the backbone or the FPN"] * 2 and not found.valid.any()  # "0 objects"


@pytest.mark.parametrize(
    ("name", "leaf", "part"),
    [
        ("cascade", "params/box_head/fc2/bias", "box head 1 of the cascade"),
        ("cascade", "params/box_head_2/deltas/bias", "box head 2 of the cascade"),
        ("cascade", "params/box_head_3/logits/kernel", "box head 3 of the cascade"),
        ("cascade", "params/mask_head/kernel", "the mask head"),
        ("c4", "params/backbone/layer3_0/conv1/conv/kernel", "the backbone"),
        ("c4", "params/res5/layer4_0/conv1/conv/kernel", "the box head"),  # res5 belongs to the heads
        ("c4", "params/mask_head/upconv/kernel", "the mask head"),
        ("dc5", "params/backbone/layer4_0/conv2/conv/kernel", "the backbone"),
        ("dc5", "params/rpn_head/conv/kernel", "the RPN"),
    ],
)
def test_cascades_and_other_necks_name_theirs(name: str, leaf: str, part: str) -> None:
    assert run(name, plant(name, leaf, np.nan))[0] == [part, part]


def test_only_the_image_that_is_not_finite_is_marked() -> None:
    _, expected = run("dc5", variables_of("dc5"))
    images = make_images("dc5")
    images[2, 30, 40, 1] = np.nan
    images[0, 60:] = images[:, :, 80:] = images[1] = np.nan  # outside of the images
    parts, found = run("dc5", variables_of("dc5"), images)
    assert parts == ["", "the backbone"]
    jax.tree.map(lambda leaf, other: np.testing.assert_array_equal(leaf[0], other[0]), found, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_value_among_many_is_enough_and_large_ones_are_finite(dtype: jnp.dtype) -> None:
    sizes, finite = jnp.array([(64, 64), (64, 64), (0, 0)]), jax.jit(features_finite)
    features = [jnp.full((3, 64, 64, 32), 3e38, dtype), jnp.full((3, 5), -3e38, dtype)]  # their sums are infinite
    assert finite(features, sizes).tolist() == [True] * 3
    for value in (np.nan, np.inf, -np.inf):
        for place in ((1, 0, 0, 0), (1, 63, 63, 31), (1, 30, 7, 11)):
            assert finite([features[0].at[place].set(value), features[1]], sizes).tolist() == [True, False, True]
        assert finite([features[0], features[1].at[:, 4].set(value)], sizes).tolist() == [False, False, True]


def test_rows_count_only_where_they_are_valid() -> None:
    valid = jnp.array([[True, True, False], [True, False, False]])
    logits, deltas = jnp.zeros((6, 4)), jnp.zeros((6, 2, 4))
    for row, expected in enumerate([[False, True], [False, True], [True, True], [True, False], [True] * 2, [True] * 2]):
        assert rows_finite([logits.at[row, 3].set(jnp.nan), deltas], valid).tolist() == expected
        assert rows_finite([logits, deltas.at[row, 1, 2].set(-jnp.inf)], valid).tolist() == expected


def test_every_part_has_a_bit_of_its_own_and_the_first_is_named() -> None:
    yes, no = jnp.array([True]), jnp.array([False])
    marks = None
    assert first_part(0) == "" and int(mark(None, "the RPN", yes)[0]) == 0
    for part in reversed(PARTS):
        assert first_part(int(mark(None, part, no)[0])) == part
        marks = mark(marks, part, no)
        assert first_part(int(marks[0])) == part and marks.tolist() == mark(marks, part, yes).tolist()
    assert box_head_part(0, 1) == "the box head" and box_head_part(0, 2) == "box head 1 of the cascade"
    assert {box_head_part(stage, 99) for stage in range(99)} == set(PARTS[4 : 4 + MAX_CASCADE])
