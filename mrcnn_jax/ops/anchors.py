"""Anchors of a feature map (Faster R-CNN, section 3.1.1; FPN, 4.1). Shapes: h x w map, R anchors per cell."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from mrcnn_jax.platforms import choose_form


def make_cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...], *, rounded: bool = False) -> np.ndarray:
    """Returns the anchors around the origin, [sizes * ratios, 4] float32, ordered by size, then ratio.

    An anchor has the area size**2, and its ratio is height / width. `rounded` rounds corners to whole pixels, halves
    to even, as in torchvision.
    """
    anchors = []
    for size in sizes:
        for ratio in ratios:
            width = np.sqrt(size * size / ratio)
            height = ratio * width
            anchors.append([-width / 2, -height / 2, width / 2, height / 2])
    return np.asarray(np.round(anchors) if rounded else anchors, np.float32)


def make_level_anchors(
    feature_hw: tuple[int, int], stride_yx: Int[Array, "2"], cell_anchors: Float[np.ndarray, "r 4"]
) -> Float[Array, "a 4"]:
    """Returns the anchors [h * w * R, 4] of one feature map, ordered by row, column and cell anchor.

    The anchors of cell (0, 0) are centred on the image corner (0, 0), as in torchvision and Detectron2.
    """
    feature_h, feature_w = feature_hw
    y, x = jnp.arange(feature_h) * stride_yx[0], jnp.arange(feature_w) * stride_yx[1]
    y, x = jnp.broadcast_to(y[:, None], feature_hw), jnp.broadcast_to(x[None, :], feature_hw)
    shifts = jnp.stack([x, y, x, y], axis=-1).astype(jnp.float32)  # [h, w, 4]
    anchors = shifts[:, :, None, :] + jnp.asarray(cell_anchors)[None, None]  # [h, w, R, 4]
    return anchors.reshape(-1, 4)


def take_unique(values: Float[Array, "n *rest"], index: Integer[Array, "s"]) -> Float[Array, "s *rest"]:
    """Returns values[index], and zeros for indices past the end.

    Indices must be unique: the gradient is written and not accumulated, so it would be wrong for a repeated index.
    """
    return values.at[index].get(mode="fill", fill_value=0.0, unique_indices=True)


def take_deltas(deltas: Float[Array, "cells k"], index: Integer[Array, "n"]) -> Float[Array, "n 4"]:
    """Returns the deltas of the anchors `index` from rows that hold the deltas of all A anchors of a cell, k = 4 A.

    Indices past the end give zeros, and indices must be unique. With a row of four values for each anchor, the deltas
    would take 32 times the memory on a TPU, which pads rows to 128 values.
    """
    return choose_form(deltas, index, gpu=_take_deltas_of_anchors, default=_take_deltas_of_cells)


def _take_deltas_of_anchors(deltas: Array, index: Array) -> Array:
    return take_unique(deltas.reshape(-1, 4), index)


def _take_deltas_of_cells(deltas: Array, index: Array) -> Array:
    cells = index.astype(jnp.uint32) // (deltas.shape[1] // 4)
    return choose_deltas(deltas.at[cells].get(mode="fill", fill_value=0.0), index)


def take_cells(deltas: Float[Array, "cells k"], index: Integer[Array, "n"]) -> Float[Array, "n k"]:
    """Returns, for each of the anchors `index`, the row with the deltas of all anchors of its cell."""
    return deltas[index.astype(jnp.uint32) // (deltas.shape[1] // 4)]


def choose_deltas(rows: Float[Array, "n k"], index: Integer[Array, "n"]) -> Float[Array, "n 4"]:
    """Returns the deltas of the anchors `index` from the rows that `take_cells` returned for them."""
    num_anchors = rows.shape[1] // 4
    own = index.astype(jnp.uint32) % num_anchors
    is_own = jnp.arange(num_anchors, dtype=jnp.uint32)[None, :] == own[:, None]  # [n, A]
    return jnp.sum(jnp.where(is_own[..., None], rows.reshape(-1, num_anchors, 4), 0.0), axis=1)
