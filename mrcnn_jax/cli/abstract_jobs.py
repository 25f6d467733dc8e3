"""The training step and batch inference of a preset as functions and shapes, without running or allocating anything."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrcnn_jax.config import Canvas, Config
from mrcnn_jax.inference.augmentation import without_augmentation
from mrcnn_jax.inference.prediction_program import make_prediction_program
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.structures import Batch, GroundTruth
from mrcnn_jax.training.training_program import make_training_program

NUM_CLASSES = 80
"""Number of classes for presets that take it from the data."""


class Job(NamedTuple):
    """A jitted function and the shapes of its arguments."""

    function: Any
    arguments: tuple[Any, ...]


def training_job(config: Config, mesh: Mesh, canvas: Canvas, batch_size: int) -> Job:
    """Returns the training step, as the training loop runs it."""
    program = make_training_program(config, mesh)
    key = jax.eval_shape(lambda: jax.random.key(config.train.seed))
    return Job(program.step, (program.state_shapes, batch_shapes(config, canvas, batch_size), key))


def prediction_job(config: Config, mesh: Mesh, canvas: Canvas, batch_size: int) -> Job:
    """Returns batch inference, as the evaluation runs it, without augmentation."""
    test = without_augmentation(config.test)
    images = jax.ShapeDtypeStruct((batch_size, *canvas, 3), jnp.float32 if config.test.resize == "float" else jnp.uint8)
    image_hw = jax.ShapeDtypeStruct((batch_size, 2), jnp.int32)
    variables = variable_shapes(MaskRCNN(config.model))
    return Job(make_prediction_program(config.model, test, mesh), (variables, images, image_hw))


JOBS = {"train": training_job, "predict": prediction_job}


def batch_shapes(config: Config, canvas: Canvas, batch_size: int) -> Batch:
    """Returns the shapes of a training batch of the data pipeline."""

    def of(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    slots, side, num_keypoints = config.data.max_objects, config.data.mask_size, config.model.num_keypoints
    ground_truth = GroundTruth(
        boxes=of(jnp.float32, slots, 4),
        labels=of(jnp.int32, slots),
        masks=of(jnp.uint8, slots, side, side),
        valid=of(jnp.bool_, slots),
        keypoints=of(jnp.float32, slots, num_keypoints, 3) if num_keypoints else None,
        has_mask=of(jnp.bool_, slots),
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
    """Returns the bytes that a compiled program needs on a device, by purpose."""
    stats = compiled.memory_analysis()
    sizes = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    sizes["total"] = sum(sizes.values()) - 2 * sizes["aliased"]  # outputs in donated arguments
    sizes["peak"] = stats.peak_memory_in_bytes
    return sizes
