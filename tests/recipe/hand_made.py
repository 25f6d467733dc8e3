"""Facts of hand-made boxes, and a machine, from which recipes are made."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn_jax.categories import Category
from mrcnn_jax.data.box_facts import BoxFacts
from mrcnn_jax.recipe.recipe_input import DataSummary, RecipeInput
from mrcnn_jax.recipe.step_cost import MachineSpeed

SLOW = MachineSpeed("cpu", 2, flops_per_second=20e9, start_seconds=45.0, evidence="assumed", num_cores=2)


def make_facts(
    num_images: int = 50, image_hw: tuple[int, int] = (256, 320), side: float = 30.0, per_image: int = 4
) -> BoxFacts:
    """Squares of about this side at random places; labels 1 and 2 in turn."""
    rng = np.random.default_rng(0)
    count = num_images * per_image
    sides = side * np.exp(0.2 * rng.standard_normal((count, 1)))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array(image_hw[::-1]) - sides)
    return BoxFacts(
        image_hw=np.tile(np.array(image_hw, np.int64), (num_images, 1)),
        boxes=np.concatenate([corners, corners + sides], axis=1),
        labels=1 + np.arange(count) % 2,
        image_index=np.repeat(np.arange(num_images), per_image),
        num_crowds=0,
    )


def make_input(
    facts: BoxFacts | None = None,
    *,
    minutes: float = 12.0,
    machine: MachineSpeed = SLOW,
    categories: Sequence[Category] = (Category(1, "nut"), Category(5, "fig")),
    given: dict[str, Any] | None = None,
    num_images: int = 0,
    **changes: Any,
) -> RecipeInput:
    facts = make_facts() if facts is None else facts
    data = DataSummary(
        facts,
        tuple(categories),
        num_images or len(facts.image_hw),
        max_count=int(facts.counts.max(initial=0)),
        num_objects=len(facts.boxes),
        num_val_images=10,
        **changes,
    )
    return RecipeInput(data, machine, minutes, given or {})
