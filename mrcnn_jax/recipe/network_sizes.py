"""Networks of four sizes, from those of the presets for CPUs to that of the paper."""

from dataclasses import dataclass

from mrcnn_jax.config.backbones import Backbone


@dataclass(frozen=True)
class NetworkSize:
    """One size of the network and what it needs to be trained."""

    name: str
    backbone: Backbone
    backbone_width: int
    fpn_channels: int
    box_head_dim: int
    mask_head: tuple[int, int]
    """Width and number of convolutions; likewise for keypoints."""
    keypoint_head: tuple[int, int]
    learning_rate: float
    """Peak rate of AdamW for batches of two."""
    relative_speed: float
    """Operations in a second, relative to a network of width 16: wider convolutions use a CPU better."""
    images_from_scratch: int
    """Images, repeats counted, that training from random weights needs to be worth this size."""
    images_from_backbone: int
    """The same from a pretrained backbone; 0 if there is none of this width."""


NETWORK_SIZES = (
    NetworkSize("tiny", "resnet10", 16, 32, 256, (32, 2), (64, 2), 0.003, 1.0, 1000, 0),
    NetworkSize("small", "resnet18", 16, 32, 256, (32, 2), (64, 2), 0.003, 1.0, 2000, 0),
    NetworkSize("medium", "resnet18", 64, 64, 256, (64, 2), (128, 3), 0.001, 2.0, 4000, 1000),
    NetworkSize("large", "resnet50", 64, 256, 1024, (256, 4), (512, 8), 0.0003, 2.0, 100_000, 8000),
)
"""By size. The numbers of images are those of runs of presets that reached useful scores: `shapes_tiny`,
`nuclei_r18_fpn` (2,700 images) and `pennfudan_r18_fpn` (1,400 from a backbone, 2,400 from scratch), rounded."""


def possible_sizes(*, is_pretrained: bool) -> tuple[NetworkSize, ...]:
    """Returns the sizes in order; with a pretrained backbone, those that have its width."""
    return tuple(size for size in NETWORK_SIZES if size.images_from_backbone or not is_pretrained)
