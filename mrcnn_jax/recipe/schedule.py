"""The schedule: images a step, steps that fit into the time, and rates that fit the steps."""

import math
from typing import NamedTuple

from mrcnn_jax.config import Canvas, Config
from mrcnn_jax.recipe.choices import Choices
from mrcnn_jax.recipe.network_sizes import NetworkSize
from mrcnn_jax.recipe.recipe_input import RecipeInput
from mrcnn_jax.recipe.step_cost import MachineSpeed, prediction_flops, step_flops

START_SECONDS = 15.0
"""Start of the process, its data and its first checkpoint."""
PREDICTION_PROGRAM = 0.6
"""Seconds to compile the prediction as a share of those of a training step."""
MARGIN = 0.95
"""Share of the remaining time that is planned, since other work on the machine slows steps down."""
LEAST_STEPS = 20
MOST_EPOCHS = {False: 100, True: 40}
"""Passes over the data after which more steps bring nothing, without and with pretrained weights."""
LEAST_BOUND = 3000
"""Images, repeats counted, to which small data sets are not bounded."""
CPU_BATCH, DEVICE_BATCH = 2, 4


class TimePlan(NamedTuple):
    """How the time is spent."""

    num_steps: int
    step_seconds: float
    start_seconds: float
    evaluation_seconds: float
    is_bounded: bool
    """Whether the data bounds the steps, and not the time."""


def choose_batch(choices: Choices, machine: MachineSpeed) -> int:
    """Chooses the images of a step."""
    if machine.platform == "cpu":
        batch = max(CPU_BATCH, machine.num_devices)
        why = "On a CPU, a larger batch takes longer in proportion, and more small steps learn faster."
    else:
        batch = DEVICE_BATCH * machine.num_devices
        why = f"{DEVICE_BATCH} images for each of {machine.num_devices} devices keep them busy."
    return choices.choose("train.batch_size", batch, why)


def plan_time(source: RecipeInput, config: Config, shares: dict[Canvas, float], network_size: NetworkSize) -> TimePlan:
    """Returns the steps that fit into the time, with canvases that hold these shares of the images."""
    machine = source.machine
    batch = config.train.batch_size
    flops = sum(share * step_flops(config, canvas, batch) for canvas, share in shares.items())
    speed = machine.flops_per_second * network_size.relative_speed
    step_seconds = flops / speed
    start = START_SECONDS + machine.start_seconds * len(config.data.canvases)
    evaluation = 0.0
    if source.data.num_val_images:
        canvas = max(config.test.canvases)
        image_seconds = 2 * prediction_flops(config, canvas) / speed + 0.05
        evaluation = machine.start_seconds * PREDICTION_PROGRAM * len(config.test.canvases)
        evaluation += source.data.num_val_images * image_seconds
    steps = int(MARGIN * (60 * source.minutes - start - evaluation) / step_seconds)
    bound = max(MOST_EPOCHS[source.is_pretrained] * source.data.num_images, LEAST_BOUND) // batch
    is_bounded = bound < steps
    steps = max(min(steps, bound), LEAST_STEPS)
    steps = steps // 50 * 50 if steps >= 500 else steps // 10 * 10
    return TimePlan(steps, step_seconds, start, evaluation, is_bounded)


def choose_schedule(choices: Choices, source: RecipeInput, network_size: NetworkSize, plan: TimePlan) -> None:
    """Chooses steps, rates and when to save."""
    batch = choices.values["train.batch_size"]
    steps = choices.choose("train.num_steps", plan.num_steps, _steps_reason(source, plan, batch))
    choices.choose("train.optimizer", "adamw", "It learns from random weights in fewer steps than SGD.")
    rate = float(f"{network_size.learning_rate * math.sqrt(batch / 2):.2g}")
    choices.choose(
        "train.learning_rate",
        rate,
        f"{network_size.learning_rate} for batches of 2 and this network, times sqrt(batch / 2).",
    )
    choices.choose("train.weight_decay", 0.05, "The usual value for AdamW, whose decay is multiplied by the rate.")
    choices.choose("train.schedule", "cosine", "No drops have to be placed, and the last step is the best one.")
    choices.choose("train.decay_steps", (), "The cosine has none.")
    choices.choose("train.warmup_steps", min(100, steps // 10), "A tenth of the steps, at most 100.")
    choices.choose("train.clip_norm", 10.0, "Bounds the gradients of the first steps.")
    decay = round(min(0.999, max(0.9, 1 - 3 / steps)), 4)
    choices.choose("train.ema_decay", decay, "Averages the weights over about a third of the steps.")
    if choices.given.get("train.patience"):
        every = max(1, steps // 10)
        choices.choose("train.eval_every", every, "Ten evaluations, which train.patience counts; they take more time.")
    else:
        choices.choose("train.eval_every", 0, "With the cosine, the last step is evaluated alone, which saves time.")
    every = max(10, min(steps, int(300 / plan.step_seconds) // 10 * 10))
    choices.choose("train.checkpoint_every", every, "About every five minutes, so that a stop loses no more.")


def _steps_reason(source: RecipeInput, plan: TimePlan, batch: int) -> str:
    epochs = plan.num_steps * batch / source.data.num_images
    if plan.is_bounded:
        return f"{epochs:.0f} passes over {source.data.num_images} images, after which more steps bring little."
    return (
        f"{source.minutes:g} minutes, less {plan.start_seconds:.0f} s to start and {plan.evaluation_seconds:.0f} s for "
        f"the evaluation, at {plan.step_seconds:.2f} s a step ({source.machine.evidence}): {epochs:.1f} passes over "
        f"{source.data.num_images} images."
    )
