"""The network: backbone, neck, heads, and the conventions that weights were trained with."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mrcnn_jax.config.backbones import BACKBONES, Backbone, BackboneLayout
from mrcnn_jax.config.checks import AT_LEAST_0, AT_LEAST_1, POSITIVE, Range, check_fields, check_flip, require


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and conventions; a weights folder carries its own."""

    backbone: Backbone = "resnet50"
    """The ResNet or ResNeXt."""
    neck: Literal["fpn", "c4", "c5", "dc5"] = "fpn"
    """What RPN and RoIs see: the feature pyramid; C4, with res5 in the heads; C5, of stride 32; or C5 dilated to 16."""
    backbone_width: Annotated[int, AT_LEAST_1] = 64
    """Channels of the stem and of the first stage's 3x3 convolutions; later stages double it."""
    num_classes: Annotated[int, AT_LEAST_0] = 80
    """Object classes without background; 0 takes the number from the training data."""
    norm: Literal["frozen_bn", "group_norm", "sync_bn"] = "frozen_bn"
    """Of the backbone: frozen_bn to fine-tune, group_norm to train from scratch, sync_bn likewise in large batches."""
    head_norm: Literal["none", "group_norm", "frozen_bn"] = "none"
    """Normalisation of the FPN and of the convolutions of box and mask head."""
    norm_eps: Annotated[float, AT_LEAST_0] = 1e-5
    """Added to the variance."""
    freeze_at: Annotated[int, Range("0 to 5", lambda value: 0 <= value <= 5)] = 2
    """Stages that are not trained: 0 none, 1 the stem, 2 the stem and res2, and so on."""
    stride_in_1x1: bool = False
    """Bottlenecks stride in their first 1x1 convolution (MSRA's ResNets) instead of the 3x3 (torchvision)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the convolutions; parameters, boxes, scores and losses stay float32."""
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, 0..255, subtracted on the device."""
    pixel_std: Annotated[tuple[float, float, float], POSITIVE] = (58.395, 57.12, 57.375)
    """RGB, 0..255, divides on the device."""
    size_divisor: Literal[1, 32] = 32
    """The network sees each image as if padded to a multiple of this; 1 is no padding (Detectron2's C4 and DC5)."""
    fpn_channels: Annotated[int, AT_LEAST_1] = 256
    """Channels of P2..P6."""
    anchor_sizes: Annotated[tuple[float, ...], POSITIVE] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Sides of square anchors, in pixels of the network input: one for each of P2..P6, without FPN all on one level."""
    anchor_ratios: Annotated[tuple[float, ...], POSITIVE] = (0.5, 1.0, 2.0)
    """Height divided by width."""
    anchors_rounded: bool = False
    """Anchor corners around the cell are rounded to whole pixels, half to even (torchvision)."""
    anchor_stride: Literal["nominal", "fitted"] = "nominal"
    """Pixels between anchors: the level's stride, or the padded image's side divided by the level's (torchvision): less
    than 64 on P6 where the side is no multiple of 64."""
    rpn_convs: Annotated[int, AT_LEAST_1] = 1
    """3x3 convolutions of the RPN before its two outputs."""
    proposal_score: Literal["logit", "probability"] = "logit"
    """What proposals of different levels are ranked by; probabilities of sure ones tie in float32 (torchvision)."""
    min_proposal_side: Annotated[float, AT_LEAST_0] = 0.0
    """Proposals with a shorter side, in pixels of the network input, are dropped, as are empty ones."""
    box_pool_size: Annotated[int, AT_LEAST_1] = 7
    """RoIAlign output side for the box head."""
    mask_pool_size: Annotated[int, AT_LEAST_1] = 14
    """RoIAlign output side for the mask head."""
    keypoint_pool_size: Annotated[int, AT_LEAST_1] = 14
    """RoIAlign output side for the keypoint head; heat maps are four times as large."""
    roi_op: Literal["align", "warp", "pool"] = "align"
    """RoIAlign; RoIWarp, which rounds RoIs to whole cells; or RoIPool, which rounds its bins, too (table 2c)."""
    roi_reduce: Literal["average", "max"] = "average"
    """What a bin takes of its samples, RoIPool of its cells."""
    sampling_ratio: Annotated[int, AT_LEAST_0] = 2
    """RoIAlign samples per bin and axis; 0 is adaptive, ceil(RoI side / output side)."""
    roi_align_aligned: bool = True
    """Shift RoIs by half a pixel of the feature map, so that pixel centres are at +0.5."""
    level_eps_in_log: Annotated[float, AT_LEAST_0] = 1e-8
    """A RoI's level is floor(4 + log2(side / 224 + this) + level_eps_after_log) (Detectron2)."""
    level_eps_after_log: Annotated[float, AT_LEAST_0] = 0.0
    """See level_eps_in_log; torchvision's is 1e-6."""
    box_head_convs: Annotated[int, AT_LEAST_0] = 0
    """3x3 convolutions of the box head before its fully connected layers."""
    box_head_conv_dim: Annotated[int, AT_LEAST_1] = 256
    """Their width."""
    box_head_fcs: Annotated[int, AT_LEAST_0] = 2
    """Fully connected layers of the box head."""
    box_head_dim: Annotated[int, AT_LEAST_1] = 1024
    """Their width."""
    box_head_stages: Annotated[int, AT_LEAST_1] = 1
    """Box heads, each on the boxes of the one before (Cascade R-CNN, arXiv 1712.00726, has 3); with the FPN only. More
    than one make one box for all classes, and stage k's deltas have k times the weights."""
    masks: bool = True
    """Has a mask head."""
    mask_head: Literal["fcn", "mlp"] = "fcn"
    """Convolutions and a deconvolution, or fully connected layers (table 2e)."""
    mask_activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """A sigmoid for each class, or one softmax over the classes at each pixel (table 2b)."""
    class_agnostic_masks: bool = False
    """One mask for all classes (section 4.2, "Class-Specific vs. Class-Agnostic Masks")."""
    mask_head_dim: Annotated[int, AT_LEAST_1] = 256
    """Width of the mask head's convolutions."""
    mask_head_convs: Annotated[int, AT_LEAST_0] = 4
    """3x3 convolutions before the mask head's deconvolution."""
    mask_head_fcs: Annotated[int, AT_LEAST_0] = 2
    """Hidden layers of the MLP mask head."""
    mask_head_fc_dim: Annotated[int, AT_LEAST_1] = 1024
    """Their width."""
    num_keypoints: Annotated[int, AT_LEAST_0] = 0
    """Keypoints of an object; 0: no keypoint head."""
    keypoint_flip: tuple[int, ...] = ()
    """For each keypoint the index, from 0, of the keypoint that it becomes in a flipped image. If empty, left and right
    are exchanged in the keypoints' names."""
    keypoint_head_dim: Annotated[int, AT_LEAST_1] = 512
    """Width of the keypoint head's convolutions."""
    keypoint_head_convs: Annotated[int, AT_LEAST_0] = 8
    """3x3 convolutions before the keypoint head's deconvolution."""
    box_delta_weights: Annotated[tuple[float, float, float, float], POSITIVE] = (10.0, 10.0, 5.0, 5.0)
    """Scale of (dx, dy, dw, dh) of the box head; the RPN's is 1."""

    def __post_init__(self) -> None:
        check_fields("model", self)
        check_flip("model.keypoint_flip", self.keypoint_flip)
        if self.neck == "fpn":
            count = len(self.anchor_sizes)
            require(count == 5, f"model.anchor_sizes: expected 5 (P2..P6), got {count}.")
        for name in ("anchor_sizes", "anchor_ratios"):
            require(len(getattr(self, name)) > 0, f"model.{name}: at least one is needed.")
        unit = 64 // self.layout.group_channels
        require(
            self.backbone_width % unit == 0,
            f"model.backbone_width: expected a multiple of {unit} for {self.backbone}, got {self.backbone_width}.",
        )
        is_counted = self.roi_op == "pool" or self.roi_reduce == "average" or self.sampling_ratio > 0
        require(is_counted, "model.roi_reduce: max needs a fixed model.sampling_ratio.")
        is_specific = self.mask_activation == "sigmoid" or not self.class_agnostic_masks
        require(is_specific, "model.mask_activation: softmax has classes to choose from only without agnostic masks.")
        stages = self.box_head_stages
        require(
            stages == 1 or self.neck == "fpn",
            f"model.box_head_stages: more than 1 need the FPN, not {self.neck}; C4's heads share their res5.",
        )
        require(
            self.mask_head == "fcn" or self.neck != "c4", "model.mask_head: mlp is not built for C4, whose is res5."
        )

    @property
    def layout(self) -> BackboneLayout:
        """The facts of the backbone."""
        return BACKBONES[self.backbone]

    def stage_width(self, stage: int) -> int:
        """Channels inside the residual blocks of a stage, 0 for res2."""
        return self.backbone_width * self.layout.group_channels * self.layout.groups // 64 * 2**stage

    def stage_channels(self, stage: int) -> int:
        """Channels that a stage returns, 0 for res2."""
        return self.backbone_width * 2**stage * (4 if self.layout.has_bottlenecks else 1)

    @property
    def feature_channels(self) -> int:
        """Channels of the features that RPN and RoIs see."""
        return self.fpn_channels if self.neck == "fpn" else self.stage_channels(2 if self.neck == "c4" else 3)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Strides of the levels that the RPN sees: P2..P6, or the one level."""
        return (4, 8, 16, 32, 64) if self.neck == "fpn" else (32,) if self.neck == "c5" else (16,)

    @property
    def roi_strides(self) -> tuple[int, ...]:
        """Strides of the levels that RoIs are pooled from: P2..P5, or the one level. P6 has the largest anchors."""
        return self.feature_strides[:4]

    @property
    def anchor_sizes_by_level(self) -> tuple[tuple[float, ...], ...]:
        """Anchor sizes on each of the levels that the RPN sees."""
        return tuple((size,) for size in self.anchor_sizes) if self.neck == "fpn" else (self.anchor_sizes,)

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at each cell of a level."""
        return len(self.anchor_sizes_by_level[0]) * len(self.anchor_ratios)

    @property
    def num_box_deltas(self) -> int:
        """Boxes that a box head makes of a RoI: one for each class and, without use, for 0; in a cascade one."""
        return 1 if self.box_head_stages > 1 else self.num_classes + 1

    def stage_delta_weights(self, stage: int) -> tuple[float, float, float, float]:
        """Scale of the deltas of a box head, 0 for the first: the later ones have less to correct."""
        dx, dy, dw, dh = (weight * (stage + 1) for weight in self.box_delta_weights)
        return dx, dy, dw, dh

    @property
    def num_mask_channels(self) -> int:
        """Channels that the mask head can return; channel 0 is the softmax's background, and else without use."""
        return 1 if self.class_agnostic_masks else self.num_classes + 1

    @property
    def mask_size(self) -> int:
        """Side of the predicted masks: the deconvolution doubles the RoI's, after res5 has halved it with C4."""
        return self.mask_pool_size if self.neck == "c4" else 2 * self.mask_pool_size

    @property
    def heat_map_size(self) -> int:
        """Side of the keypoints' heat maps: a deconvolution and a bilinear step double it twice."""
        return 4 * self.keypoint_pool_size
