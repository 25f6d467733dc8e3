"""Convolutions: one definition, and two forms of it that fill a TPU's tiles where pictures or channels are few.

Shapes: B images, H x W map, D channels, F features; maps NHWC, kernels [h, w, D / groups, F].
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

Array = jax.Array

TILE_PICTURES = 8
"""Pictures of a batch that fill the tiles of a TPU."""
TILE_CHANNELS = 128
"""Channels that fill them."""


def convolve(x: Array, kernel: Array, *, stride: int, dilation: int, groups: int) -> Array:
    """Returns the convolution [B, ceil(H / stride), ceil(W / stride), F] with symmetric padding, as PyTorch pads."""
    padding = dilation * (kernel.shape[0] - 1) // 2
    same = [(padding, padding)] * 2
    plain = partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride, stride),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    whole = partial(plain, padding=same, feature_group_count=groups)
    strips = count_strips(*x.shape[:2]) if stride == groups == 1 else 1
    merged = count_merged(groups, kernel.shape[2])
    if strips > 1:
        on_tpu = partial(convolve_strips, plain, strips, padding)
    elif merged > 1:
        on_tpu = partial(convolve_merged, plain, groups, merged, same)
    else:
        return whole(x, kernel)
    return jax.lax.platform_dependent(x, kernel, tpu=on_tpu, default=whole)


def count_strips(batch: int, height: int) -> int:
    """Into how many strips of rows a TPU cuts each map: as many as together fill a tile, and divide the height."""
    return max((n for n in range(1, TILE_PICTURES // max(batch, 1) + 1) if height % n == 0), default=1)


def convolve_strips(plain: Callable[..., Array], strips: int, padding: int, x: Array, kernel: Array) -> Array:
    """Returns the convolution of stride 1 of x [B, H, W, D], made of `strips` parts of each map as of a larger batch.

    A TPU lays out what a convolution reads in tiles of eight pictures. To fill them with fewer, the compiler itself
    would cut maps between their columns, which moves every tile of them several times.
    """
    batch, height, width, channels = x.shape
    rows = height // strips
    padded = jnp.pad(x, ((0, 0), (padding, padding), (0, 0), (0, 0)))
    parts = jnp.stack([padded[:, start : start + rows + 2 * padding] for start in range(0, height, rows)], axis=1)
    parts = parts.reshape(batch * strips, rows + 2 * padding, width, channels)
    return plain(parts, kernel, padding=[(0, 0), (padding, padding)]).reshape(batch, height, width, -1)


def count_merged(groups: int, depth: int) -> int:
    """How many groups of `depth` channels a TPU takes as one: as many as together fill a tile, and divide `groups`."""
    return max((n for n in range(1, TILE_CHANNELS // depth + 1) if groups % n == 0), default=1)


def convolve_merged(
    plain: Callable[..., Array], groups: int, merged: int, padding: list[tuple[int, int]], x: Array, kernel: Array
) -> Array:
    """Returns the convolution of x [B, H, W, D] in groups, `merged` of them taken as one, with zeros between them.

    A TPU pads the channels of a group to 128: by its compiler's estimate a group of 4 costs as much as one of 128.
    """
    height, width, depth, features = kernel.shape
    fewer = groups // merged
    apart = kernel.reshape(height, width, 1, depth, fewer, merged, features // groups)
    own = jnp.eye(merged, dtype=kernel.dtype).reshape(1, 1, merged, 1, 1, merged, 1)  # a group's channels, its features
    together = (own * apart).reshape(height, width, merged * depth, features)
    return plain(x, together, padding=padding, feature_group_count=fewer)
