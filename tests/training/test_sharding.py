"""What devices tell each other: read from the compiled programs of eight devices."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mrcnn_jax.config import TestConfig
from mrcnn_jax.detection.predict import predict
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.training.sharding import DATA_AXIS, batch_sharding, make_mesh, replicated
from tests import tiny

COLLECTIVES = (
    r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast|ragged-all-to-all)"
)


def find_collectives(program: str) -> list[tuple[str, int]]:
    """Kind and bytes of each collective of an optimised HLO program."""
    found = []
    for line in program.splitlines():
        match = re.search(rf"= (.*?) {COLLECTIVES}(-start)?\(", line)
        if match:
            shapes = re.findall(r"(f32|s32|u32|bf16|pred|u8)\[([\d,]*)\]", match[1])
            width = {"bf16": 2, "pred": 1, "u8": 1}
            size = sum(
                width.get(kind, 4) * int(np.prod([int(d) for d in dims.split(",") if d])) for kind, dims in shapes
            )
            found.append((match[2], size))
    return found


@pytest.mark.parametrize("norm", ["group_norm", "frozen_bn"])
def test_a_step_sums_gradients_and_metrics_and_nothing_else(trainer, make_trainer, norm):
    config = replace(tiny.MODEL, norm="frozen_bn", head_norm="none")
    eight = trainer(8) if norm == "group_norm" else make_trainer(config, 8)
    collectives = find_collectives(eight.compiled.as_text())
    assert [kind for kind, _ in collectives] == ["all-reduce"]  # one, for gradients and metrics together
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(eight.start().params))
    assert collectives[0][1] == pytest.approx(parameters, rel=0.02)


def test_prediction_communicates_nothing():
    mesh, model, config = make_mesh(), MaskRCNN(tiny.MODEL), TestConfig(post_nms_top_n=20, max_detections=5)
    whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
    sharded = jax.shard_map(
        lambda variables, images, image_hw: predict(variables, images, image_hw, model=model, config=config),
        mesh=mesh,
        in_specs=(whole, split, split),
        out_specs=split,
        check_vma=False,
    )
    batch = tiny.make_batch(8)
    shardings = (replicated(mesh), batch_sharding(mesh), batch_sharding(mesh))
    arguments = (tiny.make_variables(tiny.MODEL), batch.images, batch.image_hw)
    compiled = jax.jit(sharded, in_shardings=shardings).lower(*arguments).compile()
    assert find_collectives(compiled.as_text()) == []


def test_grouped_convolutions_stay_on_their_device():
    # Under plain jit they gather the whole batch.
    config = replace(tiny.MODEL, backbone="resnext50_32x4d", body_width=16, norm="frozen_bn", head_norm="none")
    model, batch, mesh = MaskRCNN(config), tiny.make_batch(8), make_mesh()
    whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)

    def extract(variables, images, image_hw):
        return model.apply(variables, images, image_hw, method=model.extract_body)

    specs = {"in_specs": (whole, split, split), "out_specs": split, "check_vma": False}
    arguments = (tiny.make_variables(config), batch.images, batch.image_hw)
    compiled = jax.jit(jax.shard_map(extract, mesh=mesh, **specs)).lower(*arguments).compile()
    assert find_collectives(compiled.as_text()) == []
    for sharded, alone in zip(compiled(*arguments), jax.jit(extract)(*arguments), strict=True):
        np.testing.assert_allclose(sharded, alone, rtol=1e-4, atol=1e-4 * float(jnp.abs(alone).max()))


def test_the_finder_finds_a_gather():
    mesh = make_mesh()
    spread = jax.jit(lambda x: x - x.mean(), in_shardings=batch_sharding(mesh), out_shardings=replicated(mesh))
    kinds = {kind for kind, _ in find_collectives(spread.lower(jnp.zeros((8, 4))).compile().as_text())}
    assert kinds == {"all-reduce", "all-gather"}


def test_mesh_and_shardings():
    mesh = make_mesh()
    assert mesh.shape == {"data": 8} and make_mesh(jax.devices()[:2]).shape == {"data": 2}
    x = jnp.arange(16.0).reshape(8, 2)
    assert [shard.data.shape for shard in jax.device_put(x, batch_sharding(mesh)).addressable_shards] == [(1, 2)] * 8
    assert jax.device_put(x, replicated(mesh)).is_fully_replicated
