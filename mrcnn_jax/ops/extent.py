"""The extent of an image on its padded canvas: the cells of a feature map that belong to the image."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Int32


def count_cells(image_hw: Int[Array, "*b 2"], stride: int, divisor: int) -> Int32[Array, "*b 2"]:
    """Returns how many rows and columns of a feature map belong to images of size `image_hw` in pixels.

    This extent is the size of an image rounded up to a multiple of `divisor`, divided by the stride and rounded up.
    """
    # Unsigned and rounded up: a floor division of signed integers adds a dozen operations to every consumer.
    sizes = image_hw.astype(jnp.uint32)
    padded = (sizes + (divisor - 1)) // divisor * divisor
    return ((padded + (stride - 1)) // stride).astype(jnp.int32)


def find_inside(
    image_hw: Int[Array, "*b 2"], feature_hw: tuple[int, int], stride: int, divisor: int
) -> Bool[Array, "*b h w"]:
    """Returns True for the cells of a feature map of size `feature_hw` that lie inside the image's extent."""
    cells = count_cells(image_hw, stride, divisor)
    places = [jnp.arange(length).reshape(*[1] * (cells.ndim - 1), length) for length in feature_hw]
    rows, columns = places[0] < cells[..., :1], places[1] < cells[..., 1:]
    return rows[..., :, None] & columns[..., None, :]
