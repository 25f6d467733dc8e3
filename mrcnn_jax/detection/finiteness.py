"""Marks of the parts of the network that computed NaN or infinity: one int32 per image, with one bit per part.

They are set on the device from logits and features, because softmax, clipping and the selection of proposals and
detections would turn such values into "nothing found". Shapes: B images, N rows (proposals or detections) of an image.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Int32

MAX_CASCADE = 20
"""Box heads of a cascade that have a bit of their own; later heads share the last of these bits."""

PARTS = (
    "the backbone",
    "the backbone or the FPN",
    "the RPN",
    "the box head",
    *(f"box head {number} of the cascade" for number in range(1, MAX_CASCADE + 1)),
    "the mask head",
    "the keypoint head",
)
"""The parts in the order of computation; the index of a part is the number of its bit."""


def box_head_part(stage: int, num_stages: int) -> str:
    """Returns the name of the box head `stage`, 0 for the first of `num_stages`."""
    return "the box head" if num_stages == 1 else f"box head {min(stage + 1, MAX_CASCADE)} of the cascade"


def first_part(marks: int) -> str:
    """Returns the first part whose bit is set; "" if none is."""
    return next((part for bit, part in enumerate(PARTS) if marks >> bit & 1), "")


@jax.named_scope("mark")
def mark(marks: Int32[Array, "b"] | None, part: str, is_finite: Bool[Array, "b"]) -> Int32[Array, "b"]:
    """Returns the marks with the part's bit set for images that are not finite; None stands for no marks yet."""
    new = jnp.where(is_finite, 0, 1 << PARTS.index(part)).astype(jnp.int32)
    return new if marks is None else marks | new


@jax.named_scope("mark")
def features_finite(features: Sequence[Array], image_hw: Int[Array, "b 2"]) -> Bool[Array, "b"]:
    """Returns whether all values of each image's features [B, ..., D] are finite; True for images of size (0, 0)."""
    # Every value is tested: sums may overflow, and XLA for CPUs loses NaN in sums and maxima of a ReLU's output.
    is_finite = jnp.stack([jnp.isfinite(values).all(axis=tuple(range(1, values.ndim))) for values in features])
    return is_finite.all(axis=0) | (image_hw == 0).any(axis=-1)


@jax.named_scope("mark")
def rows_finite(outputs: Sequence[Array], valid: Bool[Array, "b n"]) -> Bool[Array, "b"]:
    """Returns whether all values of each image's valid rows are finite; `outputs` are [B * N, ...]."""
    rows = [jnp.isfinite(values).all(axis=tuple(range(1, values.ndim))).reshape(valid.shape) for values in outputs]
    return (jnp.stack(rows).all(axis=0) | ~valid).all(axis=-1)
