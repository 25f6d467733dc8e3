"""The arithmetic of a training step, counted from the configuration, and what a machine does of it in a second."""

from dataclasses import dataclass

from mrcnn_jax.config import Canvas, Config, ModelConfig

_FORWARD_AND_BACKWARD = 3  # the gradients of inputs and of weights cost as much as the forward pass each


@dataclass(frozen=True)
class MachineSpeed:
    """The machine that trains."""

    platform: str
    """cpu, gpu or tpu."""
    num_devices: int
    flops_per_second: float
    """Operations that `step_flops` counts, done in a second of training a network of width 16 on all devices."""
    start_seconds: float
    """Seconds to compile a program for one canvas."""
    evidence: str
    """How the two numbers are known, for comments: a clause such as `estimated from one convolution`."""
    num_cores: int = 1


def step_flops(config: Config, canvas: Canvas, batch_size: int) -> float:
    """Returns the additions and multiplications in convolutions and dense layers of one training step."""
    rois = config.targets.roi_samples
    foreground = config.targets.num_foreground_rois
    macs = _image_macs(config.model, canvas) + _roi_macs(config.model, rois, foreground)
    return 2.0 * _FORWARD_AND_BACKWARD * batch_size * macs


def prediction_flops(config: Config, canvas: Canvas) -> float:
    """Returns the same of the prediction of one image."""
    macs = _image_macs(config.model, canvas)
    return 2.0 * (macs + _roi_macs(config.model, config.test.post_nms_top_n, config.test.max_detections))


def _image_macs(model: ModelConfig, canvas: Canvas) -> float:
    """Returns the multiplications of backbone, FPN and RPN."""
    pixels = canvas[0] * canvas[1]
    total = 49 * 3 * model.backbone_width * pixels / 4
    channels_in = model.backbone_width
    for stage, blocks in enumerate(model.layout.blocks):
        cells = pixels / (4 * 2**stage) ** 2
        width, out = model.stage_width(stage), model.stage_channels(stage)
        for _ in range(blocks):
            if model.layout.has_bottlenecks:
                total += cells * (channels_in * width + 9 * width * width / model.layout.groups + width * out)
            else:
                total += cells * 9 * (channels_in * out + out * out)
            total += cells * channels_in * out * (channels_in != out)  # of the shortcut
            channels_in = out
        if model.neck == "fpn":
            total += cells * (out * model.fpn_channels + 9 * model.fpn_channels**2)
            total += cells * model.rpn_convs * 9 * model.fpn_channels**2
    if model.neck != "fpn":
        total += pixels / 16**2 * model.rpn_convs * 9 * model.feature_channels**2
    return total


def _roi_macs(model: ModelConfig, rois: int, foreground: int) -> float:
    """Returns the multiplications of the heads for this many RoIs, and foreground RoIs for masks and keypoints."""
    features = model.feature_channels
    convs = features * model.box_head_conv_dim * 9 * model.box_pool_size**2 * model.box_head_convs
    dense = features * model.box_pool_size**2 * model.box_head_dim + model.box_head_dim**2
    total = float(rois * model.box_head_stages * (convs + dense))
    for wanted, side, width, num_convs in (
        (model.masks, model.mask_pool_size, model.mask_head_dim, model.mask_head_convs),
        (model.num_keypoints > 0, model.keypoint_pool_size, model.keypoint_head_dim, model.keypoint_head_convs),
    ):
        if wanted:
            layers = features * width + max(num_convs - 1, 0) * width**2
            total += foreground * side**2 * (9 * layers + 4 * width**2)
    return total
