"""How mask logits are trained and read: a sigmoid for each class, as in the paper, or one softmax over the classes.

Shapes: n RoIs, m mask side, C classes with background.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mrcnn_jax.ops.losses import mask_loss, softmax_mask_loss


class MaskVariant(NamedTuple):
    """Two functions of the mask head's logits, and which RoIs they are of."""

    loss: Callable[[Array, Array, Array, Array], Array]
    """(logits, targets [n, m, m], is_foreground [n], labels [n]) to the scalar loss."""
    probabilities: Callable[[Array, Array], Array]
    """(logits, labels [n]) to the probabilities [n, m, m] of each RoI's own class."""


def _sigmoid_loss(logits: Array, targets: Array, is_foreground: Array, labels: Array) -> Array:
    del labels  # the head put out each RoI's own map
    return mask_loss(logits, targets, is_foreground)


def _sigmoid_probabilities(logits: Float[Array, "n m m"], labels: Int[Array, "n"]) -> Float[Array, "n m m"]:
    del labels
    return jax.nn.sigmoid(logits)


def _softmax_probabilities(logits: Float[Array, "n m m C"], labels: Int[Array, "n"]) -> Float[Array, "n m m"]:
    scores = jax.nn.softmax(logits, axis=-1)
    return jnp.take_along_axis(scores, labels[:, None, None, None], axis=-1)[..., 0]


MASK_VARIANTS = {
    "sigmoid": MaskVariant(_sigmoid_loss, _sigmoid_probabilities),
    "softmax": MaskVariant(softmax_mask_loss, _softmax_probabilities),
}
"""By `ModelConfig.mask_activation`."""
