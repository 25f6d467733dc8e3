"""How many parameters a model has, counted from the papers: backbone, pyramid, RPN, and the heads that there are."""

from mrcnn_jax.config import ModelConfig

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
BLOCKS |= {"resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
BLOCKS |= {"resnext101_32x8d": (3, 4, 23, 3), "resnext101_64x4d": (3, 4, 23, 3)}
GROUPS = {"resnext101_32x8d": (32, 4), "resnext101_64x4d": (64, 4)}
"""Groups, and how much wider than a ResNet's the grouped convolutions are."""


def expected_parameters(model_config: ModelConfig) -> int:
    """Counted from the papers: backbone, pyramid, RPN, and the heads that there are."""
    backbone, channels = count_backbone(model_config)
    norm = 2 if model_config.head_norm == "group_norm" else 1  # scale and shift instead of the bias
    total, depth = backbone, {"c4": channels[2], "c5": channels[3], "dc5": channels[3]}.get(model_config.neck, 0)
    if model_config.neck == "fpn":
        depth = model_config.fpn_channels
        total += sum((c + norm) * depth + (9 * depth + norm) * depth for c in channels)
    anchors = len(model_config.anchor_ratios) * (1 if model_config.neck == "fpn" else len(model_config.anchor_sizes))
    total += (9 * depth + 1) * depth + (depth + 1) * 5 * anchors
    total += count_box_heads(model_config, depth, channels[3])
    if model_config.masks:
        total += count_mask_head(model_config, depth, channels[3], norm)
    points = model_config.keypoint_head_dim
    for index in range(model_config.keypoint_head_convs if model_config.num_keypoints else 0):
        total += (9 * (depth if index == 0 else points) + 1) * points
    return total + (16 * points + 1) * model_config.num_keypoints


def count_backbone(model_config: ModelConfig) -> tuple[int, list[int]]:
    """Parameters of all four stages, wherever the last one stands, and the channels that they put out."""
    affine = 0 if model_config.norm == "frozen_bn" else 2  # a trained norm has a scale and a shift for each channel

    def conv_norm(size: int, cin: int, cout: int, groups: int = 1) -> int:
        return size * size * cin * cout // groups + affine * cout

    total, channels = conv_norm(7, 3, model_config.backbone_width), model_config.backbone_width
    stages = []
    for stage, blocks in enumerate(BLOCKS[model_config.backbone]):
        out = model_config.backbone_width * 2**stage
        groups, share = GROUPS.get(model_config.backbone, (1, 1))
        for _ in range(blocks):
            if model_config.backbone in ("resnet10", "resnet18", "resnet34"):
                width = out
                total += conv_norm(3, channels, width) + conv_norm(3, width, width)
            else:
                width, out = out * share, 4 * model_config.backbone_width * 2**stage
                total += conv_norm(1, channels, width) + conv_norm(3, width, width, groups) + conv_norm(1, width, out)
                width = out // 4
            if channels != out:
                total += conv_norm(1, channels, out)
            channels, out = out, width
        stages.append(channels)
    return total, stages


def count_box_heads(model_config: ModelConfig, depth: int, last_stage: int) -> int:
    logits, hidden = model_config.num_classes + 1, model_config.box_head_dim
    if model_config.neck == "c4":
        return (last_stage + 1) * 5 * logits
    fcs = (model_config.box_pool_size**2 * depth + 1) * hidden + (hidden + 1) * hidden
    one_box_for_all = model_config.box_head_stages > 1
    return model_config.box_head_stages * (fcs + (hidden + 1) * (logits + 4 * (1 if one_box_for_all else logits)))


def count_mask_head(model_config: ModelConfig, depth: int, last_stage: int, norm: int) -> int:
    maps, width, pool = (
        1 if model_config.class_agnostic_masks else model_config.num_classes + 1,
        model_config.mask_head_dim,
        14,
    )
    if model_config.mask_head == "mlp":
        hidden = model_config.mask_head_fc_dim
        fcs = (pool**2 * depth + 1) * hidden + (model_config.mask_head_fcs - 1) * (hidden + 1) * hidden
        return fcs + (hidden + 1) * (2 * pool) ** 2 * maps
    convs = 0 if model_config.neck == "c4" else model_config.mask_head_convs
    total = sum((9 * (depth if index == 0 else width) + norm) * width for index in range(convs))
    return total + (4 * (width if convs else last_stage) + 1) * width + (width + 1) * maps
