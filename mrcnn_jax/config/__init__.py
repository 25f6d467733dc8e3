"""The configuration: frozen dataclasses that define every setting, its type and its only default.

The defaults describe the paper's R50-FPN on COCO (arXiv 1703.06870, section 3.1), trained for 90,000 steps. Presets in
`configs/` list only what differs. Functions receive the section that they need, never the whole `Config`.
"""

from dataclasses import dataclass, field

from mrcnn_jax.config.backbones import Backbone
from mrcnn_jax.config.checks import SIZE_DIVISOR, Canvas, require
from mrcnn_jax.config.loss_settings import LossConfig
from mrcnn_jax.config.model import ModelConfig
from mrcnn_jax.config.process_settings import DistributedConfig
from mrcnn_jax.config.run import DataConfig, TargetsConfig, TestConfig, TrainConfig

__all__ = [
    "SIZE_DIVISOR",
    "Backbone",
    "Canvas",
    "Config",
    "DataConfig",
    "DistributedConfig",
    "LossConfig",
    "ModelConfig",
    "TargetsConfig",
    "TestConfig",
    "TrainConfig",
]


@dataclass(frozen=True)
class Config:
    """All settings that define a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    test: TestConfig = field(default_factory=TestConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        later_stages = self.model.box_head_stages - 1
        require(
            later_stages <= len(self.targets.cascade_ious),
            f"targets.cascade_ious: expected an IoU for each of the {later_stages} box heads after the first, "
            f"got {self.targets.cascade_ious}.",
        )

    @property
    def loss(self) -> LossConfig:
        """Settings of the validation loss."""
        return LossConfig(self.targets, self.train.seed, self.data.max_objects, self.data.mask_size)
