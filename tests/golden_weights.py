"""Weights that any framework can regenerate from a parameter's name: no checkpoint has to travel with a golden file.

weight(name, shape, seed) is a pure function of the state-dict key (torchvision's or Detectron2's), its shape and the
seed. The scales keep activations O(1) through a ResNet with frozen batch norm and spread the class scores, so that the
outputs discriminate. adjust(name, value, golden) then applies the `gain/` and `override/` entries of a golden file.
Needs numpy only.
"""

import math
import zlib

import numpy as np

# parts of the names of transposed convolutions: torchvision's masks and keypoints, Detectron2's masks and keypoints
TRANSPOSED = (
    "mask_fcn5",
    "mask_predictor.conv5_mask",
    "kps_score_lowres",
    "mask_head.deconv",
    "keypoint_head.score_lowres",
)


def weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Returns the float32 array that stands for state-dict entry `name` of `shape` (torch layout, conv is OIHW)."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    x = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(x)
    if name.endswith("running_mean"):
        return 0.1 * x
    if name.endswith("bias"):
        return 0.1 * x
    if len(shape) == 1:  # the scale of a norm
        last_norm = ".bn3." in name or ".conv3.norm." in name  # of the residual branch
        gain = 0.3 if last_norm else 1.0  # damp the residual branch: 16 blocks would double the variance each
        return (gain * (1 + 0.1 * x)).astype(np.float32)
    fan_in = math.prod(shape[1:])
    if any(part in name for part in TRANSPOSED):
        fan_in = shape[0] * math.prod(shape[2:])  # transposed convolution: torch layout is IOHW
    gain = math.sqrt(2.0)
    if "bbox_pred" in name:
        gain = 0.3
    if "anchor_deltas" in name:
        gain = 0.05
    if "rpn.head.cls_logits" in name:
        gain = 2.0
    if "objectness_logits" in name:
        gain = 0.5
    if "cls_score" in name:
        gain = 4.0
    return (gain / math.sqrt(fan_in) * x).astype(np.float32)


def adjust(name: str, value: np.ndarray, golden) -> np.ndarray:
    """Returns `value` of state-dict entry `name` after the golden file's `gain/NAME` and `override/NAME`, if any."""
    if f"override/{name}" in golden:
        return golden[f"override/{name}"]
    if f"gain/{name}" in golden:
        return value * golden[f"gain/{name}"].astype(np.float32)
    return value
