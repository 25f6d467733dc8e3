"""How well the anchors of a preset cover boxes: for each box, the best IoU of any anchor of its image.

The anchors of one shape stand on a grid. The overlap of two boxes only grows as their centres approach in x and in y,
so the best anchor of a shape is the one nearest to the box's centre, and no other has to be compared.
"""

import numpy as np

from mrcnn_jax.config import ModelConfig
from mrcnn_jax.inspection.object_facts import paired_ious
from mrcnn_jax.ops.anchors import make_cell_anchors


def best_anchor_ious(boxes: np.ndarray, image_hw: np.ndarray, model_config: ModelConfig) -> np.ndarray:
    """Returns the best IoU [K] of any anchor with boxes [K, 4], float64.

    Boxes are x0, y0, x1, y1 at the network's input, and `image_hw` [K, 2] are the sizes of their images there.
    """
    best = np.zeros(len(boxes))
    divisor = model_config.size_divisor
    padded = -(-image_hw // divisor) * divisor
    centers = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2  # [K, 2] y, x
    for stride, sizes in zip(model_config.feature_strides, model_config.anchor_sizes_by_level, strict=True):
        cells = np.maximum(-(-padded // stride), 1)
        step = padded // cells if model_config.anchor_stride == "fitted" else np.full_like(cells, stride)
        nearest = np.clip(np.round(centers / np.maximum(step, 1)), 0, cells - 1) * step  # [K, 2]
        shifts = nearest[:, [1, 0, 1, 0]]
        for anchor in make_cell_anchors(sizes, model_config.anchor_ratios, rounded=model_config.anchors_rounded):
            best = np.maximum(best, paired_ious(shifts + anchor, boxes))
    return best
