"""How a model is trained and tested: targets, test procedure, data, optimisation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mrcnn_jax.config.checks import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    UNIT,
    UNIT_ABOVE_0,
    UNIT_BELOW_1,
    Canvas,
    check_canvases,
    check_fields,
    require,
)


@dataclass(frozen=True)
class TargetsConfig:
    """Which anchors and RoIs are trained on what, and the box losses (paper section 3.1)."""

    rpn_foreground_iou: Annotated[float, UNIT] = 0.7
    """An anchor is foreground from this IoU on (and the best one of each object is, whatever its IoU)."""
    rpn_background_iou: Annotated[float, UNIT] = 0.3
    """An anchor is background below this IoU."""
    rpn_samples: Annotated[int, AT_LEAST_1] = 256
    """Anchors sampled per image."""
    rpn_foreground_fraction: Annotated[float, UNIT_ABOVE_0] = 0.5
    """Largest share of foreground among them."""
    rpn_loss_beta: Annotated[float, AT_LEAST_0] = 1.0 / 9.0
    """Where smooth L1 turns linear, RPN; 0 is L1."""
    pre_nms_top_n: Annotated[int, AT_LEAST_1] = 2000
    """Proposals kept per level before NMS."""
    post_nms_top_n: Annotated[int, AT_LEAST_1] = 1000
    """Proposals kept per image after NMS."""
    rpn_nms_threshold: Annotated[float, UNIT] = 0.7
    """IoU above which the lower-scored proposal is dropped."""
    roi_foreground_iou: Annotated[float, UNIT] = 0.5
    """A RoI is foreground from this IoU on, else background."""
    cascade_ious: Annotated[tuple[float, ...], UNIT_ABOVE_0] = (0.6, 0.7)
    """The same for the second box head and for those after it, if the model has them."""
    roi_samples: Annotated[int, AT_LEAST_1] = 512
    """RoIs sampled per image."""
    roi_foreground_fraction: Annotated[float, UNIT_ABOVE_0] = 0.25
    """Largest share of foreground among them: 1:3."""
    box_loss_beta: Annotated[float, AT_LEAST_0] = 1.0
    """Where smooth L1 turns linear, box head; 0 is L1."""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """Of the box head: smooth L1 of the four deltas, or 1 - GIoU of the decoded boxes (arXiv 1902.09630)."""

    def __post_init__(self) -> None:
        check_fields("targets", self)
        require(
            self.rpn_background_iou <= self.rpn_foreground_iou,
            f"targets.rpn_background_iou: expected at most targets.rpn_foreground_iou {self.rpn_foreground_iou}, "
            f"got {self.rpn_background_iou}.",
        )

    @property
    def num_foreground_rois(self) -> int:
        """Quota of foreground RoIs per image; the mask head runs on these slots only."""
        return int(self.roi_samples * self.roi_foreground_fraction)


@dataclass(frozen=True)
class TestConfig:
    """How images are prepared and detections chosen at test time."""

    __test__ = False  # not a test class of pytest

    short_side: Annotated[int, AT_LEAST_1] = 800
    """Images are resized to this short side, in pixels,"""
    max_side: int = 1333
    """unless the long side would exceed this."""
    canvases: tuple[Canvas, ...] = ((800, 1344), (1344, 800))
    """Padded sizes; one compilation each."""
    resize: Literal["opencv", "pillow", "float"] = "opencv"
    """Bilinear, by: opencv, bytes, area averages beyond half size; pillow, bytes, antialiased (Detectron2); float,
    float32, not antialiased (torchvision; four times the bytes go to the device)."""
    size_rounding: Literal["nearest", "floor"] = "nearest"
    """Of the resized sides; floor is torchvision's."""
    batch_size: Annotated[int, AT_LEAST_1] = 1
    """Images per device and call."""
    pre_nms_top_n: Annotated[int, AT_LEAST_1] = 1000
    """Proposals kept per level before NMS."""
    post_nms_top_n: Annotated[int, AT_LEAST_1] = 1000
    """Proposals kept per image after NMS."""
    rpn_nms_threshold: Annotated[float, UNIT] = 0.7
    """IoU above which the lower-scored proposal is dropped."""
    score_threshold: Annotated[float, UNIT] = 0.05
    """Detections need a score above this."""
    min_detection_side: Annotated[float, AT_LEAST_0] = 0.0
    """Detections with a shorter side, in pixels of the network input, are dropped, as are empty ones."""
    nms_threshold: Annotated[float, UNIT] = 0.5
    """Per-class IoU above which the lower-scored detection is dropped."""
    max_detections: Annotated[int, AT_LEAST_1] = 100
    """Detections kept per image; the mask head runs on these."""
    max_candidates: Annotated[int, AT_LEAST_1] = 4096
    """Highest-scored (box, class) pairs that enter NMS."""
    mask_threshold: Annotated[float, UNIT] = 0.5
    """Mask probability from which on a pixel belongs to the object."""
    mask_paste: Literal["grid", "integer_box"] = "grid"
    """Masks are sampled at pixel centres in the float box, or resized to the box in whole pixels (torchvision)."""
    keypoint_score: Literal["softmax", "logit"] = "softmax"
    """Score of a keypoint: its share of the heat map (Detectron2) or the logit itself (torchvision)."""
    keypoint_offset: Annotated[float, AT_LEAST_0] = 0.5
    """Subtracted from keypoints in COCO results: COCO names pixels, whose centres are here. torchvision's models were
    trained without it."""
    keypoint_sigmas: Annotated[tuple[float, ...], POSITIVE] = ()
    """Tolerance of each keypoint in OKS, as a share of the object's size: the spread of careful annotators. Empty: if
    there are 17 keypoints COCO's own, a person's, else 0.05 each."""
    augment_flip: bool = False
    """Images are also seen flipped, at every size: test-time augmentation (paper, appendix B). A training run's own
    evaluations go without any augmentation."""
    augment_short_sides: Annotated[tuple[int, ...], AT_LEAST_1] = ()
    """Images are also seen at these short sides, with max_side and canvases in proportion to short_side's, and two
    more compilations a canvas."""

    def __post_init__(self) -> None:
        check_fields("test", self)
        check_canvases("test.canvases", self.canvases)
        require(
            self.max_side >= self.short_side,
            f"test.max_side: expected at least test.short_side {self.short_side}, got {self.max_side}.",
        )


@dataclass(frozen=True)
class DataConfig:
    """Training and validation data and how training images are prepared."""

    train: str = ""
    """Prepared folder to train on, DIR or DIR:SPLIT."""
    val: str = ""
    """Prepared folder to evaluate on; empty: no evaluation."""
    canvases: tuple[Canvas, ...] = ((800, 1344), (1344, 800))
    """Padded sizes; one compilation each."""
    short_sides: Annotated[tuple[int, ...], AT_LEAST_1] = (800,)
    """One of these short sides is drawn per image."""
    max_side: Annotated[int, AT_LEAST_1] = 1333
    """Upper bound of the long side."""
    flip_probability: Annotated[float, UNIT] = 0.5
    """Probability of a horizontal flip."""
    scale_jitter: Annotated[tuple[float, float], POSITIVE] = (1.0, 1.0)
    """Bounds of a factor on the size, drawn per image; what exceeds the canvas is cropped at a random place."""
    copy_paste_probability: Annotated[float, UNIT] = 0.0
    """Probability of pasting about half of the objects of another image over an image."""
    repeat_threshold: Annotated[float, UNIT] = 0.0
    """Categories in a smaller share of the images than this are shown more often: repeat-factor sampling; 0: none.
    The training data is read once at the start to count them."""
    max_objects: Annotated[int, AT_LEAST_1] = 100
    """Objects per image; with more, the largest are kept and the rest is counted."""
    mask_size: Annotated[int, AT_LEAST_1] = 112
    """Side of the box-relative ground-truth bitmaps."""
    num_threads: Annotated[int, AT_LEAST_0] = 4
    """Threads that read and decode."""
    prefetch: Annotated[int, AT_LEAST_0] = 4
    """Batches prepared ahead."""
    max_skip_fraction: Annotated[float, UNIT] = 0.01
    """A run stops when more than this share of images or objects is skipped as bad."""

    def __post_init__(self) -> None:
        check_fields("data", self)
        check_canvases("data.canvases", self.canvases)
        require(len(self.short_sides) > 0, "data.short_sides: at least one is needed.")
        low, high = self.scale_jitter
        require(low <= high, f"data.scale_jitter: expected low <= high, got {low} and {high}.")


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation and bookkeeping of a training run."""

    num_steps: Annotated[int, AT_LEAST_1] = 90_000
    """Batches trained on; each is an optimizer step unless accumulate_steps says otherwise."""
    batch_size: Annotated[int, AT_LEAST_1] = 16
    """Images per step over all devices."""
    learning_rate: Annotated[float, POSITIVE] = 0.02
    """Peak rate, for this batch size or for rate_batch_size."""
    rate_batch_size: Annotated[int, AT_LEAST_0] = 0
    """The images per update that learning_rate is meant for: another number scales the rate in proportion (linear
    scaling, arXiv 1706.02677); 0: the rate is as given."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, as in the paper, or AdamW (arXiv 1711.05101), which learns from scratch in fewer steps and
    wants a learning rate of about 0.001."""
    momentum: Annotated[float, UNIT_BELOW_1] = 0.9
    """SGD momentum, or AdamW's decay of the mean gradient."""
    weight_decay: Annotated[float, AT_LEAST_0] = 1e-4
    """L2, with adamw decoupled from the gradient, on all trained parameters but normalisation and biases."""
    warmup_steps: Annotated[int, AT_LEAST_0] = 1000
    """Linear warm-up from warmup_factor of the rate."""
    warmup_factor: Annotated[float, UNIT] = 0.001
    """Share of the rate at step 0."""
    decay_steps: Annotated[tuple[int, ...], AT_LEAST_0] = (60_000, 80_000)
    """Steps at which the rate is multiplied by decay_factor."""
    decay_factor: Annotated[float, UNIT] = 0.1
    """See decay_steps."""
    schedule: Literal["steps", "cosine"] = "steps"
    """The rate after the warm-up: drops at decay_steps, or half a cosine down to 0 at num_steps."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """What devices send each other of their gradients; everything else about them stays float32."""
    shard_optimizer: bool = False
    """Each device holds its part of the optimizer's state instead of all of it, and sends what it updates."""
    clip_norm: Annotated[float, AT_LEAST_0] = 0.0
    """Gradients of the trained parameters are scaled down to this global norm; 0: never."""
    accumulate_steps: Annotated[int, AT_LEAST_1] = 1
    """Batches whose gradients are averaged for one update. All counts of steps count batches, not updates; the rate of
    an update is that of its first batch."""
    ema_decay: Annotated[float, UNIT_BELOW_1] = 0.0
    """Decay per update of a moving average of the parameters (lower in the first updates), which is evaluated and
    written out in their place; 0: none."""
    seed: Annotated[int, AT_LEAST_0] = 0
    """Of initial weights, order, augmentation and sampling."""
    log_every: Annotated[int, AT_LEAST_1] = 20
    """Steps between two lines of metrics.jsonl."""
    eval_every: Annotated[int, AT_LEAST_0] = 5000
    """Steps between two evaluations on data.val; 0: only at the end."""
    checkpoint_every: Annotated[int, AT_LEAST_1] = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: Annotated[int, AT_LEAST_1] = 2
    """Latest checkpoints kept, beside the best one."""
    num_pictures: Annotated[int, AT_LEAST_0] = 8
    """Validation images drawn beside their ground truth at each evaluation."""
    init_from: str = ""
    """Weights to start from: a weights folder, a workdir, a detector's checkpoint, or an ImageNet backbone."""

    def __post_init__(self) -> None:
        check_fields("train", self)
        require(list(self.decay_steps) == sorted(self.decay_steps), "train.decay_steps: expected ascending steps.")
        require(
            self.schedule == "steps" or self.warmup_steps < self.num_steps,
            f"train.warmup_steps: expected fewer than train.num_steps {self.num_steps} for the cosine schedule, "
            f"got {self.warmup_steps}.",
        )
        require(
            self.num_steps % self.accumulate_steps == 0,
            f"train.accumulate_steps: expected a divisor of train.num_steps {self.num_steps}, "
            f"got {self.accumulate_steps}.",
        )

    @property
    def peak_learning_rate(self) -> float:
        """The rate after the warm-up, scaled to the images of an update if rate_batch_size says so."""
        if not self.rate_batch_size:
            return self.learning_rate
        return self.learning_rate * self.batch_size * self.accumulate_steps / self.rate_batch_size
