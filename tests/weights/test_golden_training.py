"""One training step of torchvision's Mask R-CNN on the same weights, image and objects: losses and gradients.

The RPN of random weights is so sure that torchvision ranks 268 proposals of probability 1.0 in float32, and its sort,
which is not stable, takes any 100 of them. So the 100 that it took are given (made by the same release's model).
"""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.config import TargetsConfig
from mrcnn_jax.data.bitmaps import make_bitmap
from mrcnn_jax.data.transforms import fit_size, resize_boxes, resize_image
from mrcnn_jax.detection import objective
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.named_leaves import named_leaves
from mrcnn_jax.structures import Batch, GroundTruth, Proposals
from mrcnn_jax.weights.importing import import_variables
from tests.weights.reference import GOLDEN, load_golden, load_image, make_arrays, make_source

NAME = "torchvision_maskrcnn_resnet50_fpn_train"
CANVAS = (256, 352)
# Every candidate is sampled, so nothing is random.
TARGETS = TargetsConfig(
    rpn_samples=30_000,
    roi_samples=128,
    roi_foreground_fraction=1.0,
    pre_nms_top_n=500,
    post_nms_top_n=100,
    rpn_loss_beta=1 / 9,
    box_loss_beta=1 / 9,
)
LOSSES = {
    "loss_classifier": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "rpn_box",
}


def make_batch(golden: dict[str, Any], rounding: str) -> Batch:
    """The image and its six objects."""
    from pycocotools import mask as coco_mask

    image = load_image()
    image_hw = image.shape[:2]
    new_hw, _ = fit_size(image_hw, golden["meta"]["min_size"], golden["meta"]["max_size"], (CANVAS,), rounding)
    images = np.zeros((1, *CANVAS, 3), np.float32)
    images[0, : new_hw[0], : new_hw[1]] = resize_image(image, new_hw, "float")
    boxes, bitmaps = golden["gt_boxes"], []
    for box, mask in zip(boxes, np.unpackbits(golden["gt_masks_packed"], axis=-1)[..., : image_hw[1]], strict=True):
        code = coco_mask.encode(np.asfortranarray(mask))
        code["counts"] = code["counts"].decode()
        bitmaps.append(make_bitmap(code, box.astype(np.float64), image_hw, 112))
    truth = GroundTruth(
        boxes=resize_boxes(boxes, image_hw, new_hw)[None],
        labels=golden["gt_labels"][None].astype(np.int32),
        masks=np.stack(bitmaps)[None],
        valid=np.ones((1, len(boxes)), bool),
    )
    zeros = np.zeros(1, np.int32)
    return Batch(images, np.array([new_hw], np.int32), truth, np.ones(1, bool), image_id=zeros, sample_index=zeros)


@pytest.fixture(scope="module")
def step() -> tuple[dict[str, Any], dict[str, float], dict[str, np.ndarray], dict[str, Any]]:
    """The golden file, our losses, our gradients by name, and the rows that fill our leaves by name of the source."""
    golden = load_golden(NAME)
    source = make_source(make_arrays(NAME, golden))
    config = replace(source.recognised.model, freeze_at=0)
    variables = import_variables(source, config)[0]
    chosen = jnp.asarray(np.load(GOLDEN / "torchvision_train_proposals.npz")["boxes"])
    batch = jax.tree.map(jnp.asarray, make_batch(golden, "floor"))

    def loss(params: Any, state: Any) -> Any:
        found = objective.compute_objective(
            params, state, batch, jax.random.key(0), model=MaskRCNN(config), targets_config=TARGETS
        )
        return found.total, found.sums

    with pytest.MonkeyPatch.context() as patch:
        ones = jnp.ones(len(chosen))
        patch.setattr(objective, "propose", lambda *_, **__: Proposals(chosen, ones, ones > 0))
        run = jax.jit(functools.partial(jax.grad(loss, argnums=(0, 1), has_aux=True)))
        (params, state), sums = jax.device_get(run(variables["params"], {"frozen": variables["frozen"]}))
    rows = {row.source: row for row in source.family.table(config, source.arrays)}
    losses = {name.removeprefix("loss/"): float(value) for name, value in sums.items()}
    return golden, losses, named_leaves({"params": params, **state}), rows


def test_losses(step: Any) -> None:
    golden, losses, _, _ = step
    for theirs, ours in LOSSES.items():
        # Their mask targets are soft, ours 0 or 1.
        assert losses[ours] == pytest.approx(float(golden[f"loss/{theirs}"]), rel=0.03 if ours == "mask" else 1e-3)


def test_gradient_norms(step: Any) -> None:
    golden, _, gradients, rows = step
    names = [key.removeprefix("grad_norm/") for key in golden if key.startswith("grad_norm/")]
    assert len(names) == 201
    for name in names:
        tolerance = 0.05 if name.startswith(("roi_heads.mask_head", "roi_heads.mask_predictor")) else 0.01
        norm = float(np.linalg.norm(gradients[rows[name].target]))
        assert norm == pytest.approx(float(golden[f"grad_norm/{name}"]), rel=tolerance), name


def test_gradients(step: Any) -> None:
    golden, _, gradients, rows = step
    names = [key.removeprefix("grad/") for key in golden if key.startswith("grad/")]
    assert len(names) == 6
    arrays = make_arrays(NAME, golden)
    for name in names:
        ours = unconvert(gradients[rows[name].target], rows[name].convert, arrays[name].shape)
        expected = golden[f"grad/{name}"].ravel()
        found = ours.ravel()[: len(expected)]
        assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) >= 0.999, name


def unconvert(leaf: np.ndarray, convert: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The leaf in the source's order of axes and classes."""
    order = convert(np.arange(np.prod(shape)).reshape(shape)).ravel()
    theirs = np.empty(int(np.prod(shape)), np.float64)
    theirs[order] = leaf.ravel()
    return theirs.reshape(shape)
