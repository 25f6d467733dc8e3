"""The configuration: frozen dataclasses that hold every field, its type and its only default.

The defaults are the paper's R50-FPN on COCO (arXiv 1703.06870, section 3.1). Presets in `configs/` state differences.
Functions receive the section that they need, never the root.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeVar

Canvas = tuple[int, int]
"""(height, width) in pixels of a padded network input; both multiples of 32."""

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]

SIZE_DIVISOR = 32
"""Stride of the coarsest body stage: a picture's own extent is its size rounded up to a multiple of this."""

_Sizes = TypeVar("_Sizes")


def extent_in_cells(image_hw: _Sizes, stride: int) -> _Sizes:
    """Returns the extent of pictures of size `image_hw` (an integer array, pixels) in cells of a feature map."""
    padded = -(-image_hw // SIZE_DIVISOR) * SIZE_DIVISOR  # type: ignore[operator]
    return -(-padded // stride)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_canvases(name: str, canvases: tuple[Canvas, ...]) -> None:
    _require(len(canvases) > 0, f"{name}: at least one canvas is needed.")
    for height, width in canvases:
        _require(
            height > 0 and width > 0 and height % SIZE_DIVISOR == 0 and width % SIZE_DIVISOR == 0,
            f"{name}: expected sides that are multiples of {SIZE_DIVISOR}, got {height}x{width}.",
        )


@dataclass(frozen=True)
class ModelConfig:
    backbone: Backbone = "resnet50"
    """ResNet body."""
    body_width: int = 64
    """Channels of the stem and of the first stage's 3x3 convolutions; later stages double it."""
    num_classes: int = 80
    """Object classes without background; 0 takes the number from the training data."""
    norm: Literal["frozen_bn", "group_norm", "sync_bn"] = "frozen_bn"
    """Of the body: frozen_bn to fine-tune, group_norm to train from scratch, sync_bn likewise in large batches."""
    head_norm: Literal["none", "group_norm"] = "none"
    """Normalisation of the FPN and the mask head."""
    norm_eps: float = 1e-5
    """Added to the variance."""
    freeze_at: int = 2
    """Stages that are not trained: 0 none, 1 the stem, 2 the stem and res2, and so on."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the convolutions; parameters, boxes, scores and losses stay float32."""
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, 0..255, subtracted on the device."""
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """RGB, 0..255, divides on the device."""
    fpn_channels: int = 256
    """Channels of P2..P6."""
    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Side of the square anchor on P2..P6, in pixels of the network input."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height divided by width."""
    box_pool_size: int = 7
    """RoIAlign output side for the box head."""
    mask_pool_size: int = 14
    """RoIAlign output side for the mask head; masks are twice as large."""
    sampling_ratio: int = 2
    """RoIAlign samples per bin and axis; 0 is adaptive, ceil(RoI side / output side)."""
    roi_align_aligned: bool = True
    """Shift RoIs by half a pixel of the feature map, so that pixel centres are at +0.5."""
    box_head_dim: int = 1024
    """Width of the two fully connected layers of the box head."""
    mask_head_dim: int = 256
    """Width of the mask head's convolutions."""
    mask_head_convs: int = 4
    """3x3 convolutions before the mask head's deconvolution."""
    box_delta_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Scale of (dx, dy, dw, dh) of the box head; the RPN's is 1."""

    def __post_init__(self) -> None:
        _require(self.num_classes >= 0, f"model.num_classes: expected 0 or more, got {self.num_classes}.")
        _require(0 <= self.freeze_at <= 5, f"model.freeze_at: expected 0 to 5, got {self.freeze_at}.")
        _require(len(self.anchor_sizes) == 5, f"model.anchor_sizes: expected 5 (P2..P6), got {len(self.anchor_sizes)}.")
        _require(self.sampling_ratio >= 0, f"model.sampling_ratio: expected 0 or more, got {self.sampling_ratio}.")
        _require(min(self.pixel_std) > 0, f"model.pixel_std: expected positive values, got {self.pixel_std}.")

    @property
    def pyramid_strides(self) -> tuple[int, ...]:
        """Strides of the maps that the RPN sees: P2..P6."""
        return (4, 8, 16, 32, 64)

    @property
    def roi_strides(self) -> tuple[int, ...]:
        """Strides of the maps that RoIs are pooled from: P2..P5. P6 serves the largest anchors only."""
        return self.pyramid_strides[:4]

    @property
    def mask_size(self) -> int:
        """Side of the predicted masks."""
        return 2 * self.mask_pool_size


@dataclass(frozen=True)
class TargetsConfig:
    """Which anchors and RoIs are trained on what, and the box losses (paper section 3.1)."""

    rpn_foreground_iou: float = 0.7
    """An anchor is foreground from this IoU on (and the best one of each object is, whatever its IoU)."""
    rpn_background_iou: float = 0.3
    """An anchor is background below this IoU."""
    rpn_samples: int = 256
    """Anchors sampled per image."""
    rpn_foreground_fraction: float = 0.5
    """Largest share of foreground among them."""
    rpn_loss_beta: float = 1.0 / 9.0
    """Where smooth L1 turns linear, RPN; 0 is L1."""
    pre_nms_top_n: int = 2000
    """Proposals kept per level before NMS."""
    post_nms_top_n: int = 1000
    """Proposals kept per image after NMS."""
    rpn_nms_threshold: float = 0.7
    """IoU above which the lower-scored proposal is dropped."""
    roi_foreground_iou: float = 0.5
    """A RoI is foreground from this IoU on, else background."""
    roi_samples: int = 512
    """RoIs sampled per image."""
    roi_foreground_fraction: float = 0.25
    """Largest share of foreground among them: 1:3."""
    box_loss_beta: float = 1.0
    """Where smooth L1 turns linear, box head; 0 is L1."""

    def __post_init__(self) -> None:
        for name in ("rpn_foreground_fraction", "roi_foreground_fraction"):
            value = getattr(self, name)
            _require(0.0 < value <= 1.0, f"targets.{name}: expected a value in (0, 1], got {value}.")
        _require(
            self.rpn_background_iou <= self.rpn_foreground_iou, "targets.rpn_background_iou is above foreground_iou."
        )

    @property
    def num_foreground_rois(self) -> int:
        """Quota of foreground RoIs per image; the mask head runs on these slots only."""
        return int(self.roi_samples * self.roi_foreground_fraction)


@dataclass(frozen=True)
class TestConfig:
    """How pictures are prepared and detections chosen at test time."""

    __test__ = False  # not a test class of pytest

    short_side: int = 800
    """Pictures are resized to this short side, in pixels,"""
    max_side: int = 1333
    """unless the long side would exceed this."""
    canvases: tuple[Canvas, ...] = ((800, 1344), (1344, 800))
    """Padded sizes; one compilation each."""
    batch_size: int = 1
    """Pictures per device and call."""
    pre_nms_top_n: int = 1000
    """Proposals kept per level before NMS."""
    post_nms_top_n: int = 1000
    """Proposals kept per image after NMS."""
    rpn_nms_threshold: float = 0.7
    """IoU above which the lower-scored proposal is dropped."""
    score_threshold: float = 0.05
    """Detections need a score above this."""
    nms_threshold: float = 0.5
    """Per-class IoU above which the lower-scored detection is dropped."""
    max_detections: int = 100
    """Detections kept per image; the mask head runs on these."""
    max_candidates: int = 4096
    """Highest-scored (box, class) pairs that enter NMS."""
    mask_threshold: float = 0.5
    """Mask probability from which on a pixel belongs to the object."""

    def __post_init__(self) -> None:
        _check_canvases("test.canvases", self.canvases)
        _require(self.short_side > 0 and self.max_side >= self.short_side, "test.max_side is below test.short_side.")
        _require(self.max_detections > 0, f"test.max_detections: expected 1 or more, got {self.max_detections}.")
        _require(self.batch_size > 0, f"test.batch_size: expected 1 or more, got {self.batch_size}.")


@dataclass(frozen=True)
class DataConfig:
    """Training and validation data and how training pictures are prepared."""

    train: str = ""
    """Prepared folder to train on, DIR or DIR:SPLIT."""
    val: str = ""
    """Prepared folder to evaluate on; empty: no evaluation."""
    canvases: tuple[Canvas, ...] = ((800, 1344), (1344, 800))
    """Padded sizes; one compilation each."""
    short_sides: tuple[int, ...] = (800,)
    """One of these short sides is drawn per picture."""
    max_side: int = 1333
    """Upper bound of the long side."""
    flip_probability: float = 0.5
    """Probability of a horizontal flip."""
    max_objects: int = 100
    """Objects per picture; with more, the largest are kept and the rest is counted."""
    mask_size: int = 112
    """Side of the box-relative ground-truth bitmaps."""
    num_threads: int = 4
    """Threads that read and decode."""
    prefetch: int = 4
    """Batches prepared ahead."""
    max_skip_fraction: float = 0.01
    """A run stops when more than this share of pictures or objects is skipped as bad."""

    def __post_init__(self) -> None:
        _check_canvases("data.canvases", self.canvases)
        _require(len(self.short_sides) > 0, "data.short_sides: at least one is needed.")
        _require(0.0 <= self.flip_probability <= 1.0, "data.flip_probability: expected 0 to 1.")
        _require(self.max_objects > 0, "data.max_objects: expected 1 or more.")


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation and bookkeeping of a training run."""

    num_steps: int = 90_000
    """Optimizer steps."""
    batch_size: int = 16
    """Images per step over all devices."""
    learning_rate: float = 0.02
    """Peak rate, for this batch size."""
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float = 1e-4
    """L2, on all trained parameters but normalisation and biases."""
    warmup_steps: int = 1000
    """Linear warm-up from warmup_factor of the rate."""
    warmup_factor: float = 0.001
    """Share of the rate at step 0."""
    decay_steps: tuple[int, ...] = (60_000, 80_000)
    """Steps at which the rate is multiplied by decay_factor."""
    decay_factor: float = 0.1
    """See decay_steps."""
    seed: int = 0
    """Of initial weights, order, augmentation and sampling."""
    log_every: int = 20
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = 5000
    """Steps between two evaluations on data.val; 0: only at the end."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Latest checkpoints kept, beside the best one."""
    num_pictures: int = 8
    """Validation pictures drawn beside their ground truth at each evaluation."""
    init_from: str = ""
    """Weights to start from: a weights folder, or an ImageNet body as .npz."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
            _require(getattr(self, name) > 0, f"train.{name}: expected 1 or more, got {getattr(self, name)}.")
        _require(self.learning_rate > 0, f"train.learning_rate: expected a positive value, got {self.learning_rate}.")
        _require(self.seed >= 0, f"train.seed: expected 0 or more, got {self.seed}.")
        _require(list(self.decay_steps) == sorted(self.decay_steps), "train.decay_steps: expected ascending steps.")


@dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    test: TestConfig = field(default_factory=TestConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
