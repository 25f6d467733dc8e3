"""Settings of the validation loss besides those of the model and of the test procedure."""

from dataclasses import dataclass, field
from typing import Annotated

from mrcnn_jax.config.checks import AT_LEAST_0, AT_LEAST_1, check_fields
from mrcnn_jax.config.run import DataConfig, TargetsConfig, TrainConfig


@dataclass(frozen=True)
class LossConfig:
    """What the loss of an image depends on, besides network and image: a weights folder records it."""

    targets: TargetsConfig = field(default_factory=TargetsConfig)
    """Training targets and the losses of boxes."""
    seed: Annotated[int, AT_LEAST_0] = TrainConfig.seed
    """Seed of the sampled anchors and RoIs."""
    max_objects: Annotated[int, AT_LEAST_1] = DataConfig.max_objects
    """Objects per image; if there are more, the largest are kept."""
    mask_size: Annotated[int, AT_LEAST_1] = DataConfig.mask_size
    """Side of the box-relative ground-truth bitmaps."""

    def __post_init__(self) -> None:
        check_fields("loss", self)
