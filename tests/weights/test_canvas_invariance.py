"""The same image on its exact canvas, on a large one, alone or in a batch: the same detections.

What the convolutions' biases and ReLUs write into the padding is put back to zero after every layer, so a static shape
gives what an exact one does; the weights are those of the golden files, so that there are detections everywhere.

A minute each: `pytest -m slow tests/weights/test_canvas_invariance.py`. The fast suite has the same property of a tiny
model's detections (tests/detection/test_predict.py) and of the features of every kind of block and of the RPN
(tests/models/test_mask_rcnn.py).
"""

from dataclasses import replace

import jax
import numpy as np
import pytest

from mrcnn_jax.inference.batches import assemble_batch
from mrcnn_jax.inference.postprocessing import ImageDetections
from tests.weights.reference import Reference, load_image, load_reference, pairwise_iou, restore, run_predict


def predict_on(reference: Reference, canvas: tuple[int, int], *, others: int) -> ImageDetections:
    """Detections of the image on this canvas, as the last of a batch with others."""
    image = load_image()
    images = [np.ascontiguousarray(image[::-1])] * others + [image]
    batch = assemble_batch(range(len(images)), images, canvas, reference.test, len(images))
    return restore(reference, run_predict(reference, batch), others)


def soften(reference: Reference) -> Reference:
    """Deltas of a tenth, as trained heads give them.

    The golden ones are so large that boxes grow to tens of times their proposals and are clipped: the last place of a
    sum, which a processor may add up in another order on another canvas, then moves a side by 0.01 pixels.
    """
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0.1 * leaf if "['deltas']" in jax.tree_util.keystr(path) else leaf, reference.variables
    )
    return replace(reference, variables=variables)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "canvas", "others"),
    [
        ("torchvision_maskrcnn_resnet50_fpn", (448, 608), 1),
        # Large maps, adaptive RoIAlign, and res5 on a thousand RoIs.
        ("torchvision_maskrcnn_resnet50_fpn", (800, 1344), 0),
        ("torchvision_maskrcnn_resnet50_fpn", (800, 1344), 1),
        ("detectron2_r50_fpn", (800, 1344), 0),
        ("detectron2_r50_fpn", (800, 1344), 1),
        ("detectron2_r50_c4", (384, 448), 0),
        ("detectron2_r50_c4", (384, 448), 1),
    ],
)
def test_detections_do_not_depend_on_the_canvas(name: str, canvas: tuple[int, int], others: int) -> None:
    reference = soften(load_reference(name))
    exact = restore(reference, run_predict(reference))
    found = predict_on(reference, canvas, others=others)
    iou = pairwise_iou(found.boxes, exact.boxes) * (found.labels[:, None] == exact.labels[None])
    assert len(found) == len(exact) == 100 and iou.max(axis=0).min() > 0.99
    found = found.select(iou.argmax(axis=0))
    np.testing.assert_allclose(found.boxes, exact.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-4)
    overlap, union = (found.masks & exact.masks).sum(axis=(1, 2)), (found.masks | exact.masks).sum(axis=(1, 2))
    assert (overlap >= 0.999 * union).all()
