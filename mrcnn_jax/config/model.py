"""The network: backbone, neck, heads, and the conventions that weights were trained with."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mrcnn_jax.config.backbones import BACKBONES, Backbone, BackboneLayout
from mrcnn_jax.config.checks import AT_LEAST_0, AT_LEAST_1, POSITIVE, Range, check_fields, check_flip, require


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and conventions of the network; every weights folder contains its own."""

    backbone: Backbone = "resnet50"
    """ResNet or ResNeXt backbone."""
    neck: Literal["fpn", "c4", "c5", "dc5"] = "fpn"
    """Features for RPN and RoIs: the pyramid, C4 with res5 in the heads, C5 at stride 32, or C5 dilated to 16."""
    backbone_width: Annotated[int, AT_LEAST_1] = 64
    """Channels of the stem and, in a ResNet, of the first stage's 3x3 convolutions; each later stage doubles them."""
    num_classes: Annotated[int, AT_LEAST_0] = 80
    """Object classes without the background; 0 takes the number from the training data."""
    norm: Literal["frozen_bn", "group_norm", "sync_bn"] = "frozen_bn"
    """Backbone normalisation: frozen_bn for fine-tuning; from scratch group_norm, or sync_bn with large batches."""
    head_norm: Literal["none", "group_norm", "frozen_bn"] = "none"
    """Normalisation of the FPN and of the convolutions in the box and mask heads."""
    norm_eps: Annotated[float, AT_LEAST_0] = 1e-5
    """Constant that normalisation adds to the variance."""
    freeze_at: Annotated[int, Range("0 to 5", lambda value: 0 <= value <= 5)] = 2
    """Number of stages that are not trained: 0 for none, 1 for the stem, 2 for the stem and res2, and so on."""
    stride_in_1x1: bool = False
    """Put the stride of bottlenecks in the first 1x1 convolution (MSRA's ResNets), not in the 3x3 (torchvision)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the network's layers; parameters, boxes, scores and losses stay float32."""
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB mean in 0..255, which is subtracted from images on the device."""
    pixel_std: Annotated[tuple[float, float, float], POSITIVE] = (58.395, 57.12, 57.375)
    """RGB standard deviation in 0..255, by which images are divided on the device."""
    size_divisor: Literal[1, 32] = 32
    """Images are treated as if padded to a multiple of this; 1 means no padding (Detectron2's C4 and DC5)."""
    fpn_channels: Annotated[int, AT_LEAST_1] = 256
    """Channels of P2..P6."""
    anchor_sizes: Annotated[tuple[float, ...], POSITIVE] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Sides of square anchors in pixels of the network input: one for each of P2..P6, or all on the one level."""
    anchor_ratios: Annotated[tuple[float, ...], POSITIVE] = (0.5, 1.0, 2.0)
    """Aspect ratios of anchors, height divided by width."""
    anchors_rounded: bool = False
    """Round the anchor corners around a cell to whole pixels, half to even (torchvision)."""
    anchor_stride: Literal["nominal", "fitted"] = "nominal"
    """Pixels between anchors: the level's stride, or the padded image's side divided by the level's side (torchvision).
    The latter is less than 64 on P6 if the image's side is not a multiple of 64."""
    rpn_convs: Annotated[int, AT_LEAST_1] = 1
    """3x3 convolutions of the RPN before its two outputs."""
    proposal_score: Literal["logit", "probability"] = "logit"
    """Score that ranks proposals of different levels; probabilities (torchvision) near 1 tie in float32."""
    min_proposal_side: Annotated[float, AT_LEAST_0] = 0.0
    """Smallest side of a proposal in pixels of the network input; smaller and empty proposals are dropped."""
    box_pool_size: Annotated[int, AT_LEAST_1] = 7
    """RoIAlign output side for the box head."""
    mask_pool_size: Annotated[int, AT_LEAST_1] = 14
    """RoIAlign output side for the mask head."""
    keypoint_pool_size: Annotated[int, AT_LEAST_1] = 14
    """RoIAlign output side for the keypoint head; heat maps are four times as large."""
    roi_op: Literal["align", "warp", "pool"] = "align"
    """Pooling of RoIs: RoIAlign; RoIWarp, which rounds RoIs to cells; or RoIPool, which rounds bins, too (table 2c)."""
    roi_reduce: Literal["average", "max"] = "average"
    """How the samples of a bin, or the cells of a RoIPool bin, are reduced."""
    sampling_ratio: Annotated[int, AT_LEAST_0] = 2
    """RoIAlign samples per bin and axis; 0 is adaptive, ceil(RoI side / output side)."""
    roi_align_aligned: bool = True
    """Shift RoIs by half a cell of the features, so that pixel centres lie at +0.5."""
    level_eps_in_log: Annotated[float, AT_LEAST_0] = 1e-8
    """A RoI's level is floor(4 + log2(side / 224 + level_eps_in_log) + level_eps_after_log); 1e-8 in Detectron2."""
    level_eps_after_log: Annotated[float, AT_LEAST_0] = 0.0
    """Constant in the level of a RoI, see level_eps_in_log; 1e-6 in torchvision."""
    box_head_convs: Annotated[int, AT_LEAST_0] = 0
    """3x3 convolutions of the box head before its fully connected layers."""
    box_head_conv_dim: Annotated[int, AT_LEAST_1] = 256
    """Width of the box head's convolutions."""
    box_head_fcs: Annotated[int, AT_LEAST_0] = 2
    """Fully connected layers of the box head."""
    box_head_dim: Annotated[int, AT_LEAST_1] = 1024
    """Width of the box head's fully connected layers."""
    box_head_stages: Annotated[int, AT_LEAST_1] = 1
    """Number of box heads, each of which refines the boxes of the one before (Cascade R-CNN, arXiv 1712.00726, has 3).
    More than 1 requires the FPN, predicts one box for all classes, and gives stage k's deltas k times the weights."""
    masks: bool = True
    """Include a mask head."""
    mask_head: Literal["fcn", "mlp"] = "fcn"
    """Mask head of convolutions and a deconvolution, or of fully connected layers (table 2e)."""
    mask_activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """Mask activation: a sigmoid for each class, or one softmax over the classes at each pixel (table 2b)."""
    class_agnostic_masks: bool = False
    """Predict one mask for all classes (section 4.2, "Class-Specific vs. Class-Agnostic Masks")."""
    mask_head_dim: Annotated[int, AT_LEAST_1] = 256
    """Width of the mask head's convolutions."""
    mask_head_convs: Annotated[int, AT_LEAST_0] = 4
    """3x3 convolutions before the mask head's deconvolution."""
    mask_head_fcs: Annotated[int, AT_LEAST_0] = 2
    """Hidden layers of the MLP mask head."""
    mask_head_fc_dim: Annotated[int, AT_LEAST_1] = 1024
    """Width of the MLP mask head's hidden layers."""
    num_keypoints: Annotated[int, AT_LEAST_0] = 0
    """Keypoints per object; 0 means no keypoint head."""
    keypoint_flip: tuple[int, ...] = ()
    """For each keypoint, the index from 0 of the keypoint that it becomes in a flipped image. If empty, keypoints are
    matched by exchanging left and right in their names."""
    keypoint_head_dim: Annotated[int, AT_LEAST_1] = 512
    """Width of the keypoint head's convolutions."""
    keypoint_head_convs: Annotated[int, AT_LEAST_0] = 8
    """3x3 convolutions before the keypoint head's deconvolution."""
    box_delta_weights: Annotated[tuple[float, float, float, float], POSITIVE] = (10.0, 10.0, 5.0, 5.0)
    """Scale of (dx, dy, dw, dh) in the box head; the RPN's is 1."""

    def __post_init__(self) -> None:
        check_fields("model", self)
        check_flip("model.keypoint_flip", self.keypoint_flip)
        if self.neck == "fpn":
            count = len(self.anchor_sizes)
            require(count == 5, f"model.anchor_sizes: expected 5 sizes (P2..P6), got {count}.")
        for name in ("anchor_sizes", "anchor_ratios"):
            require(len(getattr(self, name)) > 0, f"model.{name}: at least one is needed.")
        unit = 64 // self.layout.group_channels
        require(
            self.backbone_width % unit == 0,
            f"model.backbone_width: expected a multiple of {unit} for {self.backbone}, got {self.backbone_width}.",
        )
        is_counted = self.roi_op == "pool" or self.roi_reduce == "average" or self.sampling_ratio > 0
        require(is_counted, "model.roi_reduce: max requires a model.sampling_ratio of 1 or more.")
        is_specific = self.mask_activation == "sigmoid" or not self.class_agnostic_masks
        require(is_specific, "model.mask_activation: softmax requires model.class_agnostic_masks to be False.")
        stages = self.box_head_stages
        require(
            stages == 1 or self.neck == "fpn",
            f"model.box_head_stages: more than 1 requires model.neck fpn, got {self.neck}.",
        )  # with C4, the heads would share res5
        require(
            self.mask_head == "fcn" or self.neck != "c4", "model.mask_head: mlp is not available with model.neck c4."
        )

    @property
    def layout(self) -> BackboneLayout:
        """The layout of the backbone."""
        return BACKBONES[self.backbone]

    def stage_width(self, stage: int) -> int:
        """Returns the channels inside the residual blocks of a stage, 0 for res2."""
        return self.backbone_width * self.layout.group_channels * self.layout.groups // 64 * 2**stage

    def stage_channels(self, stage: int) -> int:
        """Returns the output channels of a stage, 0 for res2."""
        return self.backbone_width * 2**stage * (4 if self.layout.has_bottlenecks else 1)

    @property
    def feature_channels(self) -> int:
        """Channels of the features that RPN and RoIs use."""
        return self.fpn_channels if self.neck == "fpn" else self.stage_channels(2 if self.neck == "c4" else 3)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Strides of the levels that the RPN uses: P2..P6, or the one level."""
        return (4, 8, 16, 32, 64) if self.neck == "fpn" else (32,) if self.neck == "c5" else (16,)

    @property
    def roi_strides(self) -> tuple[int, ...]:
        """Strides of the levels from which RoIs are pooled: P2..P5, or the one level. P6 only has anchors."""
        return self.feature_strides[:4]

    @property
    def anchor_sizes_by_level(self) -> tuple[tuple[float, ...], ...]:
        """Anchor sizes on each level that the RPN uses."""
        return tuple((size,) for size in self.anchor_sizes) if self.neck == "fpn" else (self.anchor_sizes,)

    @property
    def anchors_per_cell(self) -> int:
        """Number of anchors at each cell of a level."""
        return len(self.anchor_sizes_by_level[0]) * len(self.anchor_ratios)

    @property
    def num_box_deltas(self) -> int:
        """Boxes that a box head predicts per RoI: one in a cascade, else one per class and an unused one for 0."""
        return 1 if self.box_head_stages > 1 else self.num_classes + 1

    def stage_delta_weights(self, stage: int) -> tuple[float, float, float, float]:
        """Returns the scale of the deltas of a box head, 0 for the first; later heads have less to correct."""
        dx, dy, dw, dh = (weight * (stage + 1) for weight in self.box_delta_weights)
        return dx, dy, dw, dh

    @property
    def num_mask_channels(self) -> int:
        """Channels of the mask head: 1, or one per class and channel 0, which only a softmax uses (background)."""
        return 1 if self.class_agnostic_masks else self.num_classes + 1

    @property
    def mask_size(self) -> int:
        """Side of the predicted masks: the deconvolution doubles the RoI's side, which with C4 res5 has halved."""
        return self.mask_pool_size if self.neck == "c4" else 2 * self.mask_pool_size

    @property
    def heat_map_size(self) -> int:
        """Side of the keypoints' heat maps: a deconvolution and a bilinear step each double the RoI's side."""
        return 4 * self.keypoint_pool_size
