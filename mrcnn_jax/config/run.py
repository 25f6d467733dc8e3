"""Settings of training and testing: targets, test procedure, data and optimisation."""

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
from mrcnn_jax.config.depth_setting import AUTO_DEPTH, parse_depth


@dataclass(frozen=True)
class TargetsConfig:
    """Training targets of anchors and RoIs, and the box losses (paper section 3.1)."""

    rpn_foreground_iou: Annotated[float, UNIT] = 0.7
    """Lowest IoU of a foreground anchor; the best anchor of each object is foreground at any IoU."""
    rpn_background_iou: Annotated[float, UNIT] = 0.3
    """IoU below which an anchor is background."""
    rpn_samples: Annotated[int, AT_LEAST_1] = 256
    """Anchors sampled per image."""
    rpn_foreground_fraction: Annotated[float, UNIT_ABOVE_0] = 0.5
    """Largest share of foreground among the sampled anchors."""
    rpn_loss_beta: Annotated[float, AT_LEAST_0] = 1.0 / 9.0
    """Error at which the RPN's smooth L1 loss becomes linear; 0 is L1."""
    pre_nms_top_n: Annotated[int, AT_LEAST_1] = 2000
    """Proposals kept per level before NMS."""
    post_nms_top_n: Annotated[int, AT_LEAST_1] = 1000
    """Proposals kept per image after NMS."""
    rpn_nms_threshold: Annotated[float, UNIT] = 0.7
    """IoU above which the lower-scored proposal is dropped."""
    roi_foreground_iou: Annotated[float, UNIT] = 0.5
    """Lowest IoU of a foreground RoI; all other RoIs are background."""
    cascade_ious: Annotated[tuple[float, ...], UNIT_ABOVE_0] = (0.6, 0.7)
    """Lowest IoU of a foreground RoI for each box head after the first, if the model has several."""
    roi_samples: Annotated[int, AT_LEAST_1] = 512
    """RoIs sampled per image."""
    roi_foreground_fraction: Annotated[float, UNIT_ABOVE_0] = 0.25
    """Largest share of foreground among the sampled RoIs; 0.25 is 1:3."""
    box_loss_beta: Annotated[float, AT_LEAST_0] = 1.0
    """Error at which the box head's smooth L1 loss becomes linear; 0 is L1."""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """Loss of the box head: smooth L1 of the four deltas, or 1 - GIoU of the decoded boxes (arXiv 1902.09630)."""

    def __post_init__(self) -> None:
        check_fields("targets", self)
        require(
            self.rpn_background_iou <= self.rpn_foreground_iou,
            f"targets.rpn_background_iou: expected at most targets.rpn_foreground_iou {self.rpn_foreground_iou}, "
            f"got {self.rpn_background_iou}.",
        )

    @property
    def num_foreground_rois(self) -> int:
        """Largest number of foreground RoIs per image; the mask and keypoint heads are trained only on these slots."""
        return int(self.roi_samples * self.roi_foreground_fraction)


@dataclass(frozen=True)
class TestConfig:
    """How images are prepared and detections selected at test time."""

    __test__ = False  # not a test class of pytest

    short_side: Annotated[int, AT_LEAST_1] = 800
    """Short side in pixels to which images are resized, unless the long side would exceed max_side."""
    max_side: int = 1333
    """Upper bound on the long side of a resized image in pixels."""
    canvases: tuple[Canvas, ...] = ((800, 1344), (1344, 800))
    """Padded sizes; each is compiled once."""
    resize: Literal["opencv", "pillow", "float"] = "opencv"
    """Bilinear resizing: opencv works on bytes and averages areas below half size; pillow works on bytes, antialiased
    (Detectron2); float works on float32, not antialiased (torchvision), and sends the device four times the bytes."""
    size_rounding: Literal["nearest", "floor"] = "nearest"
    """Rounding of the resized sides; torchvision uses floor."""
    batch_size: Annotated[int, AT_LEAST_1] = 1
    """Images per device in each call of the network."""
    pre_nms_top_n: Annotated[int, AT_LEAST_1] = 1000
    """Proposals kept per level before NMS."""
    post_nms_top_n: Annotated[int, AT_LEAST_1] = 1000
    """Proposals kept per image after NMS."""
    rpn_nms_threshold: Annotated[float, UNIT] = 0.7
    """IoU above which the lower-scored proposal is dropped."""
    score_threshold: Annotated[float, UNIT] = 0.05
    """Score that a detection has to exceed."""
    min_detection_side: Annotated[float, AT_LEAST_0] = 0.0
    """Smallest side of a detection in pixels of the network input; smaller and empty detections are dropped."""
    nms_threshold: Annotated[float, UNIT] = 0.5
    """Per-class IoU above which the lower-scored detection is dropped."""
    max_detections: Annotated[int, AT_LEAST_1] = 100
    """Detections kept per image; the mask and keypoint heads run on these."""
    max_candidates: Annotated[int, AT_LEAST_1] = 4096
    """Highest-scored (box, class) pairs that enter NMS."""
    mask_threshold: Annotated[float, UNIT] = 0.5
    """Lowest mask probability of a pixel that belongs to the object."""
    mask_paste: Literal["grid", "integer_box"] = "grid"
    """Sample masks at the pixel centres in the float box, or resize them to the box in whole pixels (torchvision)."""
    keypoint_score: Literal["softmax", "logit"] = "softmax"
    """Score of a keypoint: its share of the heat map (Detectron2), or the logit itself (torchvision)."""
    keypoint_offset: Annotated[float, AT_LEAST_0] = 0.5
    """Offset subtracted from keypoints in COCO results, since COCO's coordinates are indices of pixels and mean their
    centres. torchvision's models were trained without it."""
    keypoint_sigmas: Annotated[tuple[float, ...], POSITIVE] = ()
    """OKS tolerance of each keypoint as a share of the object's size: the spread of careful annotators. If empty, that
    of COCO for 17 keypoints (a person's), else 0.05 each."""
    depth: str = AUTO_DEPTH
    """Range of images with more than 8 bits a channel: the smallest usual one that contains an image's values (auto),
    0..65535 or 0..1 (full), or LOW,HIGH. A run takes it from its training data."""
    augment_flip: bool = False
    """Detect in flipped images, too, at every size: test-time augmentation (paper, appendix B). Evaluations during
    training use no augmentation."""
    augment_short_sides: Annotated[tuple[int, ...], AT_LEAST_1] = ()
    """Detect at these short sides, too. Each scales max_side and canvases in proportion to short_side and compiles two
    more programs per canvas."""

    def __post_init__(self) -> None:
        check_fields("test", self)
        check_canvases("test.canvases", self.canvases)
        try:
            parse_depth(self.depth)
        except ValueError as error:
            raise ValueError(f"test.depth: {error}.") from None
        require(
            self.max_side >= self.short_side,
            f"test.max_side: expected at least test.short_side {self.short_side}, got {self.max_side}.",
        )


@dataclass(frozen=True)
class DataConfig:
    """Training and validation data, and how training images are prepared."""

    train: str = ""
    """Prepared folder to train on, DIR or DIR:SPLIT."""
    val: str = ""
    """Prepared folder to evaluate on, DIR or DIR:SPLIT; if empty, there is no evaluation."""
    canvases: tuple[Canvas, ...] = ((800, 1344), (1344, 800))
    """Padded sizes; each is compiled once."""
    short_sides: Annotated[tuple[int, ...], AT_LEAST_1] = (800,)
    """Short sides in pixels, one of which is drawn for each image."""
    max_side: Annotated[int, AT_LEAST_1] = 1333
    """Upper bound on the long side of a resized training image in pixels."""
    flip_probability: Annotated[float, UNIT] = 0.5
    """Probability of a horizontal flip."""
    scale_jitter: Annotated[tuple[float, float], POSITIVE] = (1.0, 1.0)
    """Bounds of a random scale factor for each image; images larger than the canvas are cropped at a random place."""
    copy_paste_probability: Annotated[float, UNIT] = 0.0
    """Probability of pasting about half of the objects of another image into an image."""
    repeat_threshold: Annotated[float, UNIT] = 0.0
    """Share of images below which the images of a category are repeated (repeat-factor sampling); 0 means none. The
    training data is read once at the start to count the categories."""
    max_objects: Annotated[int, AT_LEAST_1] = 100
    """Objects per image; if there are more, the largest are kept and the others are counted as left out."""
    mask_size: Annotated[int, AT_LEAST_1] = 112
    """Side of the box-relative ground-truth bitmaps."""
    num_threads: Annotated[int, AT_LEAST_0] = 4
    """Threads that read and decode images."""
    prefetch: Annotated[int, AT_LEAST_0] = 4
    """Batches prepared ahead."""
    max_skip_fraction: Annotated[float, UNIT] = 0.01
    """Share of images or objects skipped as invalid above which a run stops."""

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
    """Number of batches to train on; each is an optimizer step unless accumulate_steps is above 1."""
    batch_size: Annotated[int, AT_LEAST_1] = 16
    """Images per step over all devices."""
    learning_rate: Annotated[float, POSITIVE] = 0.02
    """Peak learning rate for this batch size, or for rate_batch_size if it is set."""
    rate_batch_size: Annotated[int, AT_LEAST_0] = 0
    """Images per update for which learning_rate is meant; for another number, the rate is scaled in proportion (linear
    scaling, arXiv 1706.02677). 0 uses the rate as given."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, as in the paper, or AdamW (arXiv 1711.05101), which learns from scratch in fewer steps and
    needs a learning rate of about 0.001."""
    momentum: Annotated[float, UNIT_BELOW_1] = 0.9
    """SGD momentum, or AdamW's decay of the mean gradient."""
    weight_decay: Annotated[float, AT_LEAST_0] = 1e-4
    """L2 penalty, decoupled from the gradient with adamw, on all trained parameters except normalisation and biases."""
    warmup_steps: Annotated[int, AT_LEAST_0] = 1000
    """Steps of linear warm-up from warmup_factor times the rate."""
    warmup_factor: Annotated[float, UNIT] = 0.001
    """Factor of the learning rate at step 0."""
    decay_steps: Annotated[tuple[int, ...], AT_LEAST_0] = (60_000, 80_000)
    """Steps at which the rate is multiplied by decay_factor."""
    decay_factor: Annotated[float, UNIT] = 0.1
    """Factor of the learning rate at each of decay_steps."""
    schedule: Literal["steps", "cosine"] = "steps"
    """Learning rate after the warm-up: drops at decay_steps, or half a cosine down to 0 at num_steps."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which devices exchange gradients; everything else about gradients stays float32."""
    shard_optimizer: bool = False
    """Split the optimizer's state over devices, each of which updates its part and sends it to the others."""
    clip_norm: Annotated[float, AT_LEAST_0] = 0.0
    """Global norm to which the gradients of the trained parameters are clipped; 0 means no clipping."""
    accumulate_steps: Annotated[int, AT_LEAST_1] = 1
    """Batches whose gradients are averaged for one update. All numbers of steps count batches, not updates; the rate of
    an update is that of its first batch."""
    ema_decay: Annotated[float, UNIT_BELOW_1] = 0.0
    """Decay per update of a moving average of the parameters (lower in the first updates), which is evaluated and
    saved in their place; 0 means no average."""
    seed: Annotated[int, AT_LEAST_0] = 0
    """Seed of the initial weights, the order of images, augmentation and sampling."""
    log_every: Annotated[int, AT_LEAST_1] = 20
    """Steps between two lines of metrics.jsonl."""
    eval_every: Annotated[int, AT_LEAST_0] = 5000
    """Steps between two evaluations on data.val; 0 evaluates only at the end."""
    patience: Annotated[int, AT_LEAST_0] = 0
    """Evaluations in a row without a better score after which a run stops early; 0 trains up to num_steps. Evaluations
    before the first score above 0 do not count."""
    best_by: Literal["auto", "mask_ap", "box_ap", "keypoint_ap", "loss"] = "auto"
    """Score that decides which step is best: AP, or the validation loss, of which less is better. auto is mask AP or,
    if the model or the data has no masks, box AP."""
    validation_loss: bool = False
    """Compute every loss term on data.val at each evaluation, without augmentation."""
    checkpoint_every: Annotated[int, AT_LEAST_1] = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: Annotated[int, AT_LEAST_1] = 2
    """Number of latest checkpoints that are kept in addition to the best one."""
    num_pictures: Annotated[int, AT_LEAST_0] = 8
    """Validation images drawn with predictions beside their ground truth at each evaluation."""
    init_from: str = ""
    """Weights to start from: a weights folder, a workdir, a detector's checkpoint, or an ImageNet backbone."""

    def __post_init__(self) -> None:
        check_fields("train", self)
        require(
            self.patience == 0 or self.eval_every > 0,
            "train.patience: it counts evaluations, so train.eval_every has to be above 0.",
        )
        require(
            self.best_by != "loss" or self.validation_loss,
            "train.best_by: the loss is computed only with train.validation_loss.",
        )
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
        """Learning rate after the warm-up, scaled to the images of an update if rate_batch_size is set."""
        if not self.rate_batch_size:
            return self.learning_rate
        return self.learning_rate * self.batch_size * self.accumulate_steps / self.rate_batch_size
