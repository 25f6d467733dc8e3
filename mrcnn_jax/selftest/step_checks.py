"""Checks that a training step of a small model is finite and consistent, and that its gradient is the loss's slope."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.config import ModelConfig, TargetsConfig
from mrcnn_jax.detection.objective import compute_objective
from mrcnn_jax.models.mask_rcnn import MaskRCNN, variable_shapes
from mrcnn_jax.selftest.findings import EXACT, FLOAT32, Finding, Setting, relative_error
from mrcnn_jax.structures import Batch, GroundTruth

SLOPE = 0.02
"""Tolerance for the slope, which is measured in float32 over a finite step in which ReLUs switch."""
STEP = 3e-3
"""Intended change of the loss as a share of the loss, far above rounding and far below curvature."""
HEADS = ("box_head", "mask_head")
"""Modules with parameters that do not affect proposals, through which no gradient flows."""
Tree = dict[str, Any]
CANVAS = (128, 192)
MODEL = ModelConfig(
    backbone="resnet18",
    neck="c5",  # compiles in half the time of a pyramid
    backbone_width=8,
    num_classes=3,
    freeze_at=4,  # likewise; every form of convolution is checked separately
    anchor_sizes=(16.0, 32.0, 64.0),
    box_head_dim=32,
    mask_head_dim=16,
    mask_head_convs=1,
)
TARGETS = TargetsConfig(rpn_samples=64, pre_nms_top_n=128, post_nms_top_n=64, roi_samples=32)


def check_step(_: Setting) -> Iterator[Finding]:
    """Checks losses and gradients at one point, and the loss at two further points along the gradient.

    The sum of all losses is followed only along the heads' parameters, and the RPN's losses along all others, because
    these change proposals, and with them the other losses, in jumps.
    """
    model, batch = MaskRCNN(MODEL), make_batch()
    variables = draw_variables(model)
    params = variables.pop("params")

    def losses(params: Tree, is_followed: jax.Array, batch: Batch) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns the followed one of total and RPN loss; as auxiliary output both, and the sum of all parts."""
        sums = compute_objective(params, variables, batch, jax.random.key(0), model=model, targets_config=TARGETS).sums
        rpn = sums["loss/objectness"] + sums["loss/rpn_box"]
        parts = sum((sums[f"loss/{name}"] for name in ("class", "box", "mask")), rpn)
        values = jnp.stack([sums["loss/total"], rpn])
        return jnp.sum(values * is_followed), (values, parts)

    run = jax.jit(jax.value_and_grad(losses, has_aux=True))  # one program: it compiles for many seconds
    size = f"{CANVAS[0]}x{CANVAS[1]}, {MODEL.backbone}"
    with jax.default_matmul_precision("highest"):
        for index, (name, is_own) in enumerate(
            (("heads", lambda name: name in HEADS), ("backbone and RPN", lambda name: name not in HEADS))
        ):
            is_followed = jnp.arange(2) == index
            (_, (values, parts)), gradients = run(params, is_followed, batch)
            followed, loss = {key: tree for key, tree in gradients.items() if is_own(key)}, float(values[index])
            bad = sum(int(not np.isfinite(leaf).all()) for leaf in jax.tree.leaves((values, gradients)))
            yield Finding(f"training step: not finite, {name}", size, float(bad), EXACT)
            if index == 0:
                yield Finding("training step: total loss", size, relative_error(values[0], parts), FLOAT32)
            squared = sum(float(np.square(leaf, dtype=np.float64).sum()) for leaf in jax.tree.leaves(followed))
            length = STEP * loss / squared  # over this multiple of the gradient, the loss changes by a share STEP
            ends = [
                float(run(move(params, followed, sign * length), is_followed, batch)[0][1][0][index])
                for sign in (1, -1)
            ]
            slope = (ends[0] - ends[1]) / (2 * length)
            yield Finding(f"training step: slope, {name}", size, relative_error(slope, squared), SLOPE)


def draw_variables(model: MaskRCNN) -> Tree:
    """Returns random variables drawn with NumPy, since initialisation would have to be compiled."""
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[-1].key == "kernel":
            values = rng.standard_normal(leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            values = np.full(leaf.shape, path[-1].key in ("scale", "var"))
        return jnp.asarray(values, leaf.dtype)

    return dict(jax.tree_util.tree_map_with_path(draw, variable_shapes(model)))


def move(params: Tree, direction: Tree, length: float) -> Tree:
    """Returns the parameters, with those in `direction` moved along it."""
    moved = {
        name: jax.tree.map(lambda leaf, slope: leaf + length * slope, params[name], tree)
        for name, tree in direction.items()
    }
    return {**params, **moved}


def make_batch() -> Batch:
    """Returns two images of noise with a bright box in a different colour for each object."""
    rng = np.random.default_rng(0)
    height, width = CANVAS
    images = rng.integers(0, 60, (2, height, width, 3)).astype(np.uint8)
    boxes, labels = np.zeros((2, 4, 4), np.float32), np.zeros((2, 4), np.int32)
    for image in range(2):
        for slot in range(3):
            side = rng.integers(16, 60)
            x0, y0 = rng.integers(0, width - side), rng.integers(0, height - side)
            images[image, y0 : y0 + side, x0 : x0 + side, slot] = 255
            boxes[image, slot], labels[image, slot] = (x0, y0, x0 + side, y0 + side), slot + 1
    truth = GroundTruth(boxes, labels, np.ones((2, 4, 112, 112), np.uint8), labels > 0)
    index = np.arange(2, dtype=np.int32)
    sizes = np.tile(np.array([[height, width]], np.int32), (2, 1))
    batch = Batch(images, sizes, truth, np.ones(2, bool), image_id=index, sample_index=index)
    return jax.tree.map(jnp.asarray, batch)
