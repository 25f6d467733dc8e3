"""What a recipe is made from: facts about the data, the machine, the time, and the settings that are given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mrcnn_jax.categories import Category
from mrcnn_jax.data.box_facts import BoxFacts
from mrcnn_jax.recipe.step_cost import MachineSpeed


@dataclass(frozen=True)
class DataSummary:
    """The training data, and how many validation images there are."""

    facts: BoxFacts
    """Boxes of the training split, or of a sample of its images."""
    categories: tuple[Category, ...]
    num_images: int
    max_count: int
    """Objects in the fullest training image, without crowds."""
    num_objects: int
    num_val_images: int = 0
    has_masks: bool = True


@dataclass(frozen=True)
class RecipeInput:
    """All that decides a recipe."""

    data: DataSummary
    machine: MachineSpeed
    minutes: float
    """Time of the whole run, with its start and last evaluation."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Settings that win, by names such as `train.batch_size`."""
    given_reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_pretrained(self) -> bool:
        """Whether training starts from weights."""
        return bool(self.given.get("train.init_from"))
