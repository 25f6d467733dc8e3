"""What devices tell each other: read from the compiled programs of eight devices."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mrcnn_jax.config import TestConfig
from mrcnn_jax.detection.predict import predict
from mrcnn_jax.mesh import DATA_AXIS, batch_sharding, make_mesh, replicated
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.profiling.costs import purpose_of
from mrcnn_jax.profiling.hlo import Collective, Program
from tests import tiny

FROZEN = replace(tiny.MODEL, norm="frozen_bn", head_norm="none")
KINDS = {
    "fpn": tiny.MODEL,
    "c4": replace(FROZEN, neck="c4", anchor_sizes=(16.0, 32.0, 64.0), mask_head_dim=8),
    "grouped": replace(FROZEN, neck="dc5", backbone="resnext50_32x4d", backbone_width=16),
    "keypoints": replace(FROZEN, neck="dc5", num_keypoints=3, keypoint_head_convs=1, keypoint_head_dim=8),
    "sync_bn": replace(FROZEN, neck="dc5", norm="sync_bn"),
}
"""A small model of every kind that the presets have. DC5 compiles in half the time of FPN, which one of them has."""


def find_collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    return Program(compiled.as_text()).collectives()


def count_bytes(tree: object) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def compile_step(one) -> jax.stages.Compiled:
    """The step of a trainer, with keypoints in the batch if its model has them."""
    if not one.config.num_keypoints:
        return one.compiled
    batch = tiny.make_batch(8)
    keypoints = jnp.zeros((*batch.ground_truth.valid.shape, one.config.num_keypoints, 3))
    return one.compile(batch.replace(ground_truth=batch.ground_truth.replace(keypoints=keypoints)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_sums_gradients_and_metrics_and_nothing_else(trainer, make_trainer, kind, request):
    if kind == "grouped":  # the other backbone has one block in each stage anyway
        request.getfixturevalue("one_block")
    eight = trainer(8) if KINDS[kind] == tiny.MODEL else make_trainer(KINDS[kind], 8)
    collectives, state = find_collectives(compile_step(eight)), eight.start()
    assert {(one.kind, one.group_size, one.times) for one in collectives} == {("all-reduce", 8, 1)}
    # Mean and variance of every channel on the way forward, their gradients on the way back.
    statistics = 2 * count_bytes(state.model_state.get("batch_stats", {}))
    total = sum(one.num_bytes for one in collectives)
    assert total == pytest.approx(count_bytes(state.params) + statistics, rel=0.02)
    purposes = {purpose_of(one) for one in collectives}
    assert purposes == {"gradients and metrics"} | ({"batch statistics"} if statistics else set())
    assert statistics or len(collectives) == 1  # one, for gradients and metrics together


@pytest.mark.parametrize("kind", ["c4", "grouped", "keypoints"])
def test_prediction_communicates_nothing(kind, one_block):
    mesh, model, config = make_mesh(), MaskRCNN(KINDS[kind]), TestConfig(post_nms_top_n=20, max_detections=5)
    whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
    sharded = jax.shard_map(
        lambda variables, images, image_hw: predict(variables, images, image_hw, model=model, test_config=config),
        mesh=mesh,
        in_specs=(whole, split, split),
        out_specs=split,
        check_vma=False,
    )
    batch = tiny.make_batch(8)
    shardings = (replicated(mesh), batch_sharding(mesh), batch_sharding(mesh))
    arguments = (tiny.make_variables(model.config), batch.images, batch.image_hw)
    compiled = jax.jit(sharded, in_shardings=shardings).lower(*arguments).compile()
    assert find_collectives(compiled) == []


def test_grouped_convolutions_stay_on_their_device(one_block):
    # Under plain jit they gather the whole batch.
    config = replace(tiny.MODEL, backbone="resnext50_32x4d", backbone_width=16, norm="frozen_bn", head_norm="none")
    model, batch, mesh = MaskRCNN(config), tiny.make_batch(8), make_mesh()
    whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def extract(variables, images, image_hw):
        return model.apply(variables, images, image_hw, method=model.extract_backbone_features)

    specs = {"in_specs": (whole, split, split), "out_specs": split, "check_vma": False}
    arguments = (tiny.make_variables(config), batch.images, batch.image_hw)
    compiled = jax.jit(jax.shard_map(extract, mesh=mesh, **specs)).lower(*arguments).compile()
    assert find_collectives(compiled) == []
    for sharded, alone in zip(compiled(*arguments), jax.jit(extract)(*arguments), strict=True):
        np.testing.assert_allclose(sharded, alone, rtol=1e-4, atol=1e-4 * float(jnp.abs(alone).max()))


def test_the_finder_finds_a_gather():
    mesh = make_mesh()
    spread = jax.jit(lambda x: x - x.mean(), in_shardings=batch_sharding(mesh), out_shardings=replicated(mesh))
    kinds = {one.kind for one in find_collectives(spread.lower(jnp.zeros((8, 4))).compile())}
    assert kinds == {"all-reduce", "all-gather"}


def test_mesh_and_shardings():
    mesh = make_mesh()
    assert mesh.shape == {"data": 8} and make_mesh(jax.devices()[:2]).shape == {"data": 2}
    x = jnp.arange(16.0).reshape(8, 2)
    assert [shard.data.shape for shard in jax.device_put(x, batch_sharding(mesh)).addressable_shards] == [(1, 2)] * 8
    assert jax.device_put(x, replicated(mesh)).is_fully_replicated
