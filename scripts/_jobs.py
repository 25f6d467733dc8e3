"""The training step and batch inference of a preset as shapes: nothing runs, and no array is made."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mrcnn_jax.config import Canvas, Config
from mrcnn_jax.detection.predict import predict
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.structures import Batch, GroundTruth
from mrcnn_jax.training.optimizer import make_optimizer
from mrcnn_jax.training.sharding import DATA_AXIS, batch_sharding, replicated, state_sharding
from mrcnn_jax.training.state import create_train_state
from mrcnn_jax.training.step import make_train_step

NUM_CLASSES = 80
"""For presets that take the number from the data."""


class Job(NamedTuple):
    """A jitted function and the shapes of its arguments."""

    function: Any
    arguments: tuple[Any, ...]


def training_job(config: Config, mesh: Mesh, canvas: Canvas, batch_size: int) -> Job:
    """The training step, jitted as the training loop does it."""
    model, optimizer = MaskRCNN(config.model), make_optimizer(config.train, config.model)
    state = jax.eval_shape(functools.partial(create_train_state, model, optimizer, config.train.seed))
    step = make_train_step(
        mesh,
        model=model,
        optimizer=optimizer,
        targets=config.targets,
        gradient_dtype=config.train.gradient_dtype,
    )
    states = state_sharding(mesh, state, shard_optimizer=config.train.shard_optimizer)
    whole, split = replicated(mesh), batch_sharding(mesh)
    function = jax.jit(step, in_shardings=(states, split, whole), out_shardings=(states, whole), donate_argnums=0)
    key = jax.eval_shape(lambda: jax.random.key(config.train.seed))
    return Job(function, (state, batch_shapes(config, canvas, batch_size), key))


def prediction_job(config: Config, mesh: Mesh, canvas: Canvas, batch_size: int) -> Job:
    """Batch inference, jitted as the evaluation does it without augmentation."""
    model, whole, split = MaskRCNN(config.model), PartitionSpec(), PartitionSpec(DATA_AXIS)
    part = functools.partial(predict, model=model, config=config.test)
    sharded = jax.shard_map(part, mesh=mesh, in_specs=(whole, split, split), out_specs=split, check_vma=False)
    shardings = (replicated(mesh), batch_sharding(mesh), batch_sharding(mesh))
    images = jax.ShapeDtypeStruct((batch_size, *canvas, 3), jnp.float32 if config.test.resize == "float" else jnp.uint8)
    image_hw = jax.ShapeDtypeStruct((batch_size, 2), jnp.int32)
    variables = variable_shapes(model)
    return Job(jax.jit(sharded, in_shardings=shardings), (variables, images, image_hw))


JOBS = {"train": training_job, "predict": prediction_job}


def batch_shapes(config: Config, canvas: Canvas, batch_size: int) -> Batch:
    """A training batch as the data pipeline makes it."""

    def of(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    slots, side, num_keypoints = config.data.max_objects, config.data.mask_size, config.model.num_keypoints
    ground_truth = GroundTruth(
        boxes=of(jnp.float32, slots, 4),
        labels=of(jnp.int32, slots),
        masks=of(jnp.uint8, slots, side, side),
        valid=of(jnp.bool_, slots),
        keypoints=of(jnp.float32, slots, num_keypoints, 3) if num_keypoints else None,
    )
    return Batch(
        images=of(jnp.uint8, *canvas, 3),
        image_hw=of(jnp.int32, 2),
        ground_truth=ground_truth,
        valid=of(jnp.bool_),
        image_id=of(jnp.int32),
        sample_index=of(jnp.int32),
    )


def count_bytes(compiled: Any) -> dict[str, int]:
    """Bytes on a device of a compiled program, by what they hold."""
    stats = compiled.memory_analysis()
    sizes = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    sizes["total"] = sum(sizes.values()) - 2 * sizes["aliased"]  # outputs that lie in donated arguments
    sizes["peak"] = stats.peak_memory_in_bytes
    return sizes
