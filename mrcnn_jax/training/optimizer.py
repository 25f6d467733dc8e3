"""SGD with momentum, weight decay, linear warm-up and rate drops (paper section 3.1; Goyal et al., arXiv 1706.02677).

Options are AdamW, half a cosine (arXiv 1608.03983), clipped and accumulated gradients, and averaged parameters.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mrcnn_jax.config import ModelConfig, TrainConfig
from mrcnn_jax.models.resnet import frozen_modules
from mrcnn_jax.training.averaging import track_average


def learning_rate(train_config: TrainConfig, step: jax.Array | int) -> jax.Array:
    """Returns the learning rate of a step, float32.

    It warms up from `warmup_factor` and then drops at each of `decay_steps`, or follows half a cosine. All steps that
    are accumulated into one update have the rate of the first of them.
    """
    if train_config.accumulate_steps > 1:
        step = step // train_config.accumulate_steps * train_config.accumulate_steps
    step = jnp.asarray(step, jnp.float32)
    progress = (
        jnp.clip(step / max(train_config.warmup_steps, 1), 0.0, 1.0) if train_config.warmup_steps else jnp.float32(1.0)
    )
    warmup = train_config.warmup_factor + (1.0 - train_config.warmup_factor) * progress
    if train_config.schedule == "cosine":
        cosine = optax.cosine_decay_schedule(
            train_config.peak_learning_rate, train_config.num_steps - train_config.warmup_steps
        )
        return warmup * cosine(jnp.maximum(step - train_config.warmup_steps, 0.0))
    drops = jnp.sum(step >= jnp.asarray((*train_config.decay_steps, jnp.inf), jnp.float32))
    return train_config.peak_learning_rate * warmup * train_config.decay_factor**drops


def make_optimizer(train_config: TrainConfig, model_config: ModelConfig) -> optax.GradientTransformation:
    """Returns SGD as the reference implementations define it, v = m v + g + d p, p = p - rate v; or AdamW.

    The decay d applies to kernels but not to biases and normalisation, and frozen stages are not updated. Gradients are
    clipped before the decay is added. Frozen stages are part of neither the clipped norm, the accumulator nor the
    average.
    """
    frozen = frozen_modules(model_config)

    def is_trained(path: tuple[Any, ...], _: jax.Array) -> bool:
        names = [entry.key for entry in path]
        return not (names[0] == "backbone" and names[1].startswith(frozen)) if frozen else True

    def label(path: tuple[Any, ...], leaf: jax.Array) -> str:
        return "trained" if is_trained(path, leaf) else "frozen"

    accumulate = train_config.accumulate_steps
    decay = optax.add_decayed_weights(
        train_config.weight_decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    )

    def rate(update: jax.Array) -> jax.Array:
        return learning_rate(train_config, update * accumulate)

    if train_config.optimizer == "adamw":
        stages = [optax.scale_by_adam(b1=train_config.momentum), decay, optax.scale_by_learning_rate(rate)]
    else:
        stages = [decay, optax.sgd(rate, momentum=train_config.momentum)]
    if train_config.clip_norm:
        stages.insert(0, optax.clip_by_global_norm(train_config.clip_norm))
    if train_config.ema_decay:
        stages.append(track_average(train_config.ema_decay))
    sgd = optax.chain(*stages)
    if accumulate > 1:
        sgd = optax.MultiSteps(sgd, accumulate).gradient_transformation()
    return optax.multi_transform(
        {"trained": sgd, "frozen": optax.set_to_zero()},
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )
