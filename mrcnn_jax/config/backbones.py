"""The layouts of the ResNet and ResNeXt backbones (arXiv 1512.03385, 1611.05431)."""

from typing import Literal, NamedTuple

Backbone = Literal[
    "resnet10",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
]


class BackboneLayout(NamedTuple):
    """The layout of one backbone."""

    blocks: tuple[int, int, int, int]
    """Residual blocks of res2..res5."""
    has_bottlenecks: bool = True
    """Whether a block is a bottleneck of 1x1, 3x3 and 1x1 convolutions instead of two 3x3 convolutions."""
    groups: int = 1
    """Groups of the 3x3 convolutions."""
    group_channels: int = 64
    """Channels of each group in res2 for a backbone width of 64."""


BACKBONES: dict[Backbone, BackboneLayout] = {
    "resnet10": BackboneLayout((1, 1, 1, 1), has_bottlenecks=False),
    "resnet18": BackboneLayout((2, 2, 2, 2), has_bottlenecks=False),
    "resnet34": BackboneLayout((3, 4, 6, 3), has_bottlenecks=False),
    "resnet50": BackboneLayout((3, 4, 6, 3)),
    "resnet101": BackboneLayout((3, 4, 23, 3)),
    "resnet152": BackboneLayout((3, 8, 36, 3)),
    "resnext50_32x4d": BackboneLayout((3, 4, 6, 3), groups=32, group_channels=4),
    "resnext101_32x8d": BackboneLayout((3, 4, 23, 3), groups=32, group_channels=8),
    "resnext101_64x4d": BackboneLayout((3, 4, 23, 3), groups=64, group_channels=4),
}
"""ResNet-10 has one block per stage; it is not from a paper and is meant for networks that are small throughout."""
