"""The prediction program of a model: `predict`, jitted and exported only here, with test-time augmentation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mrcnn_jax.config import Canvas, ModelConfig, TestConfig
from mrcnn_jax.detection.predict import predict, predict_boxes, predict_masks_and_keypoints, predict_proposals
from mrcnn_jax.inference.augmentation import augment, check_keypoint_flip, is_augmented
from mrcnn_jax.inference.batches import PredictFn
from mrcnn_jax.mesh import DATA_AXIS, batch_sharding, replicated
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.structures import Detections, Proposals

PredictionProgram = Callable[..., Detections]
"""Maps variables, images [B, H, W, 3] and image_hw int32 [B, 2] to batched Detections. Each further short side of the
test config adds an argument, a pair (images, image_hw)."""


def make_prediction_program(model_config: ModelConfig, test_config: TestConfig, mesh: Mesh) -> PredictionProgram:
    """Returns the prediction program over all devices of `mesh`, each of which computes its share of a batch.

    Without augmentation it is a jitted function. With augmentation, the host merges the results of two jitted
    functions. Flips of keypoints need `model_config.keypoint_flip`; ConfigError if it is missing.
    """
    model = MaskRCNN(model_config)
    if not is_augmented(test_config):
        return _jit_over_images(functools.partial(predict, model=model, test_config=test_config), mesh)
    check_keypoint_flip(test_config, model_config)
    detect = _jit_over_images(functools.partial(predict_boxes, model=model, test_config=test_config), mesh)
    complete = _jit_over_images(functools.partial(predict_masks_and_keypoints, model=model), mesh, num_inputs=3)

    def predict_augmented(variables: Mapping[str, Any], *inputs: Any) -> Detections:
        bound = functools.partial(detect, variables), functools.partial(complete, variables)
        return augment(*bound, test_config, model_config.keypoint_flip)(*inputs)

    return predict_augmented


def make_predict_fn(
    variables: Mapping[str, Any], model_config: ModelConfig, test_config: TestConfig, mesh: Mesh
) -> PredictFn:
    """Copies the variables to the mesh and returns the prediction program with them as its first argument."""
    on_devices = jax.device_put(dict(variables), replicated(mesh))
    return functools.partial(make_prediction_program(model_config, test_config, mesh), on_devices)


def export_prediction_program(
    model_config: ModelConfig, test_config: TestConfig, canvas: Canvas, platform: str, batch_size: int | None = None
) -> jax.export.Exported:
    """Returns the prediction program for one canvas, lowered for cpu, cuda or tpu.

    The number of images is symbolic unless `batch_size` fixes it. The program maps the leaves of the variables, in the
    order of their tree, images [b, H, W, 3] and image_hw int32 [b, 2] to the fields of batched Detections by name.
    Test-time augmentation, which the host merges, is not part of it.
    """
    model = MaskRCNN(model_config)
    (count,) = jax.export.symbolic_shape("b") if batch_size is None else (batch_size,)
    leaves, structure = jax.tree.flatten(variable_shapes(model))

    def predict_by_name(leaves: Sequence[jax.Array], images: jax.Array, image_hw: jax.Array) -> dict[str, jax.Array]:
        variables = jax.tree.unflatten(structure, leaves)
        return vars(predict(variables, images, image_hw, model=model, test_config=test_config))

    images = jax.ShapeDtypeStruct((count, *canvas, 3), jnp.float32 if test_config.resize == "float" else jnp.uint8)
    inputs = leaves, images, jax.ShapeDtypeStruct((count, 2), jnp.int32)
    return jax.export.export(jax.jit(predict_by_name), platforms=[platform])(*inputs)


def make_proposal_fn(
    variables: Mapping[str, Any], model_config: ModelConfig, test_config: TestConfig, mesh: Mesh
) -> Callable[..., Any]:
    """Copies the variables to the mesh and returns a jitted function from images [B, H, W, 3] and image_hw int32 [B, 2]
    to batched Proposals."""
    on_devices = jax.device_put(dict(variables), replicated(mesh))
    find = functools.partial(predict_proposals, model=MaskRCNN(model_config), test_config=test_config)
    return functools.partial(_jit_over_images(find, mesh), on_devices)


def _jit_over_images(
    function: Callable[..., Detections | Proposals], mesh: Mesh, num_inputs: int = 2
) -> jax.stages.Wrapped:
    """Jits `function(variables, *inputs)` over the mesh with replicated variables and split inputs and results."""
    whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
    sharded = jax.shard_map(
        function, mesh=mesh, in_specs=(whole, *[split] * num_inputs), out_specs=split, check_vma=False
    )
    return jax.jit(sharded, in_shardings=(replicated(mesh), *[batch_sharding(mesh)] * num_inputs))
