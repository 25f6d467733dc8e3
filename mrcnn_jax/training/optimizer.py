"""SGD with momentum, weight decay, linear warm-up and steps (paper section 3.1; Goyal et al., arXiv 1706.02677)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mrcnn_jax.config import ModelConfig, TrainConfig
from mrcnn_jax.models.resnet import frozen_modules


def learning_rate(config: TrainConfig, step: jax.Array | int) -> jax.Array:
    """Returns the rate of a step, float32: warm-up from `warmup_factor`, then a drop at each of `decay_steps`."""
    step = jnp.asarray(step, jnp.float32)
    progress = jnp.clip(step / max(config.warmup_steps, 1), 0.0, 1.0) if config.warmup_steps else jnp.float32(1.0)
    warmup = config.warmup_factor + (1.0 - config.warmup_factor) * progress
    drops = jnp.sum(step >= jnp.asarray((*config.decay_steps, jnp.inf), jnp.float32))
    return config.learning_rate * warmup * config.decay_factor**drops


def make_optimizer(config: TrainConfig, model_config: ModelConfig) -> optax.GradientTransformation:
    """Returns SGD as the references define it: v = m v + g + d p, p = p - rate v.

    Decay d acts on kernels only, neither on biases nor on normalisation; frozen stages do not move at all.
    """
    frozen = frozen_modules(model_config)

    def is_trained(path: tuple[Any, ...], _: jax.Array) -> bool:
        names = [entry.key for entry in path]
        return not (names[0] == "backbone" and names[1].startswith(frozen)) if frozen else True

    def label(path: tuple[Any, ...], leaf: jax.Array) -> str:
        return "trained" if is_trained(path, leaf) else "frozen"

    sgd = optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)),
        optax.sgd(lambda step: learning_rate(config, step), momentum=config.momentum),
    )
    return optax.multi_transform(
        {"trained": sgd, "frozen": optax.set_to_zero()},
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )
