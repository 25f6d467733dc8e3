"""The suggestion: the largest network that the time allows, on images as large as the objects need.

It is a pure function of the boxes, the machine, the time and the settings that are given.
"""

from dataclasses import dataclass

import numpy as np

from mrcnn_jax.config import Config
from mrcnn_jax.data.box_facts import box_sides, scale_boxes
from mrcnn_jax.errors import DataError
from mrcnn_jax.recipe import image_sizes
from mrcnn_jax.recipe.anchor_clusters import Anchors
from mrcnn_jax.recipe.choices import Choices
from mrcnn_jax.recipe.image_sizes import ImageSizes, choose_sizes, shares_of_canvases, smaller_short_sides
from mrcnn_jax.recipe.network import choose_anchors, choose_network, choose_slots
from mrcnn_jax.recipe.network_sizes import NETWORK_SIZES, NetworkSize, possible_sizes
from mrcnn_jax.recipe.recipe_input import RecipeInput
from mrcnn_jax.recipe.schedule import TimePlan, choose_batch, choose_schedule, plan_time

SMALLER = 0.85
"""Factor of the short side while even the smallest network is too slow."""
LEAST_OBJECT_SIDE = 12.0
"""Median side of objects in pixels below which images are not made smaller to save time."""
CANVAS_SHARE = 0.06
"""Share of the time that the compilation for each canvas may take."""


_LARGER = "The next larger one needs more than the time allows."


@dataclass(frozen=True)
class Suggestion:
    """The configuration, the reason of each value, and what it leads to."""

    config: Config
    choices: Choices
    plan: TimePlan
    anchors: Anchors
    network_size: NetworkSize
    notes: tuple[str, ...]
    """What the user should know: one line each."""


def suggest(source: RecipeInput) -> Suggestion:
    """Returns the suggestion. Raises DataError without objects, ValueError if given settings do not fit together."""
    if not source.data.num_images or not len(source.data.facts.boxes):
        raise DataError("There is no object from which sizes could be derived. Prepare images with objects.")
    needed = image_sizes.needed_short_side(source.data.facts)
    network_sizes = possible_sizes(is_pretrained=source.is_pretrained)
    for network_size in reversed(network_sizes):
        suggestion = _try(source, network_size, needed)
        if suggestion is not None:
            return _finish(source, *suggestion, needed)
    short_side = needed
    median = float(np.median(image_sizes.relative_sides(source.data.facts)))
    while (suggestion := _try(source, network_sizes[0], short_side)) is None:
        smaller = image_sizes.round_up(SMALLER * short_side)
        if smaller >= short_side or smaller * median < LEAST_OBJECT_SIDE or smaller < 96:
            suggestion = _try(source, network_sizes[0], short_side, least=0)
            break
        short_side = smaller
    assert suggestion is not None  # least=0 accepts any time
    return _finish(source, *suggestion, needed)


def _try(
    source: RecipeInput, network_size: NetworkSize, short_side: int, least: int | None = None
) -> tuple[Choices, NetworkSize, TimePlan] | None:
    """Returns the choices for this network and size, or None if too few images are seen in the time."""
    if least is None:
        least = network_size.images_from_backbone if source.is_pretrained else network_size.images_from_scratch
    choices = Choices(source.given, source.given_reasons)
    choose_network(choices, source, network_size)
    shares = _choose_sizes(choices, source, short_side)
    choose_batch(choices, source.machine)
    plan = plan_time(source, choices.config(), shares, network_size)
    if "model.backbone" not in choices.given:
        seen = plan.num_steps * choices.values["train.batch_size"]
        choices.reasons["model.backbone"] = (
            f"A {network_size.name} network sees {seen} images in the time, repeats counted; it needs about {least}. "
            f"{_LARGER if network_size is not NETWORK_SIZES[-1] else 'This is the largest.'}"
        )
    is_enough = plan.num_steps * choices.values["train.batch_size"] >= least or plan.is_bounded
    return (choices, network_size, plan) if is_enough else None


def _finish(
    source: RecipeInput, choices: Choices, network_size: NetworkSize, plan: TimePlan, needed: int
) -> Suggestion:
    """Returns the suggestion with anchors, schedule and all that is given."""
    anchors = choose_anchors(choices, source, choices.config())
    choose_schedule(choices, source, network_size, plan)
    _choose_augmentation(choices, source)
    threads = max(1, min(4, source.machine.num_cores))
    choices.choose("data.num_threads", threads, f"This machine has {source.machine.num_cores} cores.")
    choices.add_given()
    config = choices.config()
    return Suggestion(
        config, choices, plan, anchors, network_size, tuple(_notes(source, config, plan, anchors, needed))
    )


def _choose_sizes(choices: Choices, source: RecipeInput, short_side: int) -> dict[tuple[int, int], float]:
    """Chooses the sizes of images for training and test, and slots; returns the share of images of each canvas."""
    facts, machine = source.data.facts, source.machine
    given = choices.given.get("data.short_sides")
    short_side = max(given) if given else short_side
    most = int(np.clip(CANVAS_SHARE * 60 * source.minutes / max(machine.start_seconds, 1e-3), 1, 3))
    sizes = choose_sizes(facts.image_hw, short_side, most_canvases=most, max_side=choices.given.get("data.max_side", 0))
    median = float(np.median(image_sizes.relative_sides(facts))) * short_side
    native = int(np.median(facts.image_hw.min(axis=1)))
    choices.choose(
        "data.short_sides",
        smaller_short_sides(short_side),
        f"At {short_side} px, half of the objects have a side of {median:.0f} px or more; images have {native} px. The "
        "smaller sizes are an augmentation.",
    )
    choices.choose("data.max_side", sizes.max_side, "Images with longer sides are made smaller, to save padding.")
    choices.choose(
        "data.canvases",
        sizes.canvases,
        f"Chosen for the least padding: {sizes.used:.0%} of their pixels are image. Each is compiled once.",
    )
    sizes = ImageSizes(short_side, choices.values["data.max_side"], choices.values["data.canvases"], sizes.used)
    boxes = box_sides(scale_boxes(facts, short_side, sizes.max_side, sizes.canvases))
    _choose_test_sizes(choices, source, sizes, median)
    choose_slots(choices, source, float(np.quantile(np.sqrt(boxes.prod(axis=1)), 0.9)))
    return shares_of_canvases(facts.image_hw, sizes)


def _choose_test_sizes(choices: Choices, source: RecipeInput, sizes: ImageSizes, median: float) -> None:
    is_small = median < image_sizes.SMALL_OBJECTS
    scale = image_sizes.TEST_ENLARGEMENT if is_small else 1.0
    wanted = image_sizes.round_up(sizes.short_side * scale)
    why = "Larger than in training: small objects are detected better." if is_small else "The largest of training."
    short_side = choices.choose("test.short_side", wanted, why)
    found = choose_sizes(source.data.facts.image_hw, short_side, most_canvases=len(sizes.canvases))
    if short_side == sizes.short_side:
        found = sizes
    choices.choose("test.max_side", max(found.max_side, short_side), "As in training, for this short side.")
    choices.choose("test.canvases", found.canvases, f"The least padding: {found.used:.0%} of their pixels are image.")


def _choose_augmentation(choices: Choices, source: RecipeInput) -> None:
    if "data.flip_probability" not in choices.values:
        choices.choose("data.flip_probability", 0.5, "Mirror images of most objects are objects of the same class.")
    facts = source.data.facts
    pairs = np.unique(np.stack([facts.image_index, facts.labels]), axis=1)[1]
    shares = np.bincount(pairs, minlength=len(source.data.categories) + 1)[1:] / len(facts.image_hw)
    present = shares[shares > 0]
    if len(present) > 1 and present.min() < 0.05:
        choices.choose(
            "data.repeat_threshold",
            0.05,
            f"The rarest class is in {present.min():.1%} of the images; images of classes in less than 5 % are "
            "repeated.",
        )


def _notes(source: RecipeInput, config: Config, plan: TimePlan, anchors: Anchors, needed: int) -> list[str]:
    data, notes = source.data, []
    seen = config.train.num_steps * config.train.batch_size
    if seen < 1000 and not source.is_pretrained:
        notes.append(
            f"{seen} images in {source.minutes:g} minutes are too few to learn from random weights. Give more "
            "--minutes, or weights to start from (--train.init-from)."
        )
    if max(config.data.short_sides) < needed and "data.short_sides" not in source.given:
        notes.append(
            f"Images are resized to {max(config.data.short_sides)} px to save time; the objects need {needed} px. "
            "More --minutes allow larger images."
        )
    num_beyond = int(np.maximum(data.facts.counts - config.data.max_objects, 0).sum())
    if num_beyond:
        notes.append(f"{num_beyond} objects are beyond data.max_objects {config.data.max_objects} and are left out.")
    if data.facts.num_crowds:
        notes.append(f"{data.facts.num_crowds} crowds are not learned.")
    if anchors.coverage < 0.9:
        notes.append(
            f"{1 - anchors.coverage:.0%} of the boxes have no anchor of IoU 0.5. The best anchor of each is learned at "
            "any IoU."
        )
    if plan.is_bounded and config.train.num_steps == plan.num_steps:
        notes.append(f"The run ends before its {source.minutes:g} minutes: the data set is small.")
    return notes
