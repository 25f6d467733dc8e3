"""Conventions in which Mask R-CNNs differ without a trace in their parameters, as values of config fields.

A wrong convention can silently cost points of AP, so every weights folder contains its own. Sources: torchvision's
`models/detection/*.py`, Detectron2's `config/defaults.py` and layers, and MMDetection's
`configs/_base_/models/mask-rcnn_r50_fpn.py`, `mmdet/models` and `mmcv/image/geometric.py`, as of 2026.
"""

from typing import Any, NamedTuple

from mrcnn_jax.config.model import ModelConfig
from mrcnn_jax.config.run import TestConfig


class Conventions(NamedTuple):
    """Values of the config fields in which implementations differ."""

    model: dict[str, Any]  # of ModelConfig
    test: dict[str, Any]  # of TestConfig


TORCHVISION = Conventions(
    model={
        "stride_in_1x1": False,
        "norm_eps": 1e-5,  # the first COCO checkpoints: 0, see `weights.torchvision`
        "pixel_mean": (123.675, 116.28, 103.53),
        "pixel_std": (58.395, 57.12, 57.375),
        "size_divisor": 32,
        "anchors_rounded": True,
        "anchor_stride": "fitted",
        "proposal_score": "probability",
        "min_proposal_side": 1e-3,
        "sampling_ratio": 2,
        "roi_align_aligned": False,
        "level_eps_in_log": 0.0,
        "level_eps_after_log": 1e-6,
    },
    test={
        "resize": "float",
        "size_rounding": "floor",
        "score_threshold": 0.05,
        "min_detection_side": 1e-2,
        "mask_paste": "integer_box",
        "keypoint_score": "logit",
        "keypoint_offset": 0.0,
    },
)

DETECTRON2 = Conventions(
    model={
        "stride_in_1x1": True,  # MSRA's backbones; ResNeXt: False, see `weights.detectron2`
        "norm_eps": 1e-5,
        "pixel_mean": (123.675, 116.28, 103.53),
        "pixel_std": (1.0, 1.0, 1.0),  # likewise
        "size_divisor": 32,  # with FPN; 1 without
        "anchors_rounded": False,
        "anchor_stride": "nominal",
        "proposal_score": "logit",
        "min_proposal_side": 0.0,
        "sampling_ratio": 0,
        "roi_align_aligned": True,
        "level_eps_in_log": 1e-8,
        "level_eps_after_log": 0.0,
    },
    test={
        "resize": "pillow",
        "size_rounding": "nearest",
        "score_threshold": 0.05,
        "min_detection_side": 0.0,
        "mask_paste": "grid",
        "keypoint_score": "softmax",
        "keypoint_offset": 0.5,
    },
)

MMDETECTION = Conventions(
    model=DETECTRON2.model
    | {
        "stride_in_1x1": False,  # style='pytorch'; style='caffe': True, see `weights.mmdetection_settings`
        "pixel_std": (58.395, 57.12, 57.375),  # likewise
        "proposal_score": "probability",
        "level_eps_in_log": 2.5e-7,  # floor(log2(side / 56 + 1e-6))
    },
    test=DETECTRON2.test | {"resize": "opencv"},
)

OURS = Conventions(
    model={name: getattr(ModelConfig(), name) for name in TORCHVISION.model},
    test={name: getattr(TestConfig(), name) for name in TORCHVISION.test},
)
"""The defaults: those of the paper, with the details that proved best in later systems."""
