"""A model small enough to compile in a test, its variables, and generated batches."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.config import ModelConfig, TargetsConfig
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.structures import Batch, GroundTruth

MODEL = ModelConfig(
    backbone="resnet10",
    backbone_width=8,
    num_classes=3,
    norm="group_norm",
    head_norm="group_norm",
    freeze_at=0,
    fpn_channels=16,
    anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
    box_head_dim=32,
    mask_head_dim=16,
    mask_head_convs=1,
)
TARGETS = TargetsConfig(rpn_samples=32, pre_nms_top_n=64, post_nms_top_n=48, roi_samples=32)


def model_with(**changes: object) -> MaskRCNN:
    """The tiny model with other fields of its config."""
    return MaskRCNN(replace(MODEL, **changes))


@functools.cache
def make_variables(model_config: ModelConfig, seed: int = 0) -> dict:
    """Random variables, drawn by NumPy: nothing to compile. Scales, shifts and statistics are not 1 and 0."""
    rng = np.random.default_rng(seed)
    shapes = variable_shapes(MaskRCNN(model_config))

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.standard_normal(leaf.shape)
        if path[-1].key == "kernel":
            values = noise * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif path[-1].key in ("scale", "var"):
            values = np.exp(0.1 * noise)
        else:
            values = 0.1 * noise
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def make_batch(
    num_images: int, canvas: tuple[int, int] = (64, 64), num_slots: int = 4, num_objects: int = 3, seed: int = 0
) -> Batch:
    """Dark noise with bright boxes, one colour and label each; label 1 is the ellipse in its box."""
    rng = np.random.default_rng(seed)
    height, width = canvas
    images = rng.integers(0, 60, (num_images, height, width, 3)).astype(np.uint8)
    boxes, labels = np.zeros((num_images, num_slots, 4), np.float32), np.zeros((num_images, num_slots), np.int32)
    masks = np.zeros((num_images, num_slots, 112, 112), np.uint8)
    y, x = np.mgrid[:112, :112]
    ellipse = (y - 55.5) ** 2 + (x - 55.5) ** 2 < 56**2
    for image in range(num_images):
        for slot in range(num_objects):
            side = rng.integers(12, 30)
            x0, y0 = rng.integers(0, width - side), rng.integers(0, height - side)
            images[image, y0 : y0 + side, x0 : x0 + side, slot % 3] = 255
            boxes[image, slot] = (x0, y0, x0 + side, y0 + side)
            labels[image, slot] = slot % 3 + 1
            masks[image, slot] = ellipse if slot % 3 == 0 else 1
    valid = np.tile(np.arange(num_slots) < num_objects, (num_images, 1))
    index = np.arange(num_images, dtype=np.int32) + 100 * seed
    sizes = np.tile(np.array([[height, width]], np.int32), (num_images, 1))
    truth = GroundTruth(boxes, labels, masks, valid)
    batch = Batch(images, sizes, truth, np.ones(num_images, bool), image_id=index, sample_index=index)
    return jax.tree.map(jnp.asarray, batch)
