"""The configuration: frozen dataclasses that hold every field, its type and its only default.

The defaults are the paper's R50-FPN on COCO (arXiv 1703.06870, section 3.1). Presets in `configs/` state differences.
Functions receive the section that they need, never the root.
"""

from dataclasses import dataclass, field

from mrcnn_jax.config.backbones import Backbone
from mrcnn_jax.config.checks import SIZE_DIVISOR, Canvas, require
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
    "ModelConfig",
    "TargetsConfig",
    "TestConfig",
    "TrainConfig",
]


@dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    test: TestConfig = field(default_factory=TestConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        later_stages = self.model.box_head_stages - 1
        require(
            later_stages <= len(self.targets.cascade_ious),
            f"targets.cascade_ious: expected one for each of {later_stages} box heads after the first, "
            f"got {self.targets.cascade_ious}.",
        )
