"""RoIAlign in loops over RoIs, bins and samples: the form for CPUs.

For each RoI, the samples along y are averaged first, a strip of columns at a time, then those along x. The trip counts
of the loops depend on the RoI, so the cost is proportional to its size, and adaptive sampling needs no padding to a
largest number of samples. The backward pass takes the same steps in reverse. RoIAlign is linear in the features, so
only the RoIs are saved for it.

Shapes: B images, n RoIs of all images, S output side, C channels, H x W cells of one level.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from mrcnn_jax.integers import ceil_div

STRIP = 8
"""Columns of a RoI that are averaged along y at a time: 8 KiB per row of 256 channels (16 are as fast, 32 slower)."""


# Start indices are never negative; without JAX's check for that, programs are smaller.
_take = partial(jax.lax.dynamic_slice, allow_negative_indices=False)
_put = partial(jax.lax.dynamic_update_slice, allow_negative_indices=False)


class CellRois(NamedTuple):
    """RoIs in units of the cells of their levels."""

    image: jax.Array  # [n]
    level: jax.Array  # [n]
    starts: jax.Array  # [n, 2] along (y, x)
    sides: jax.Array  # [n, 2]
    ends: jax.Array  # [n, 2] cells of the level that belong to the image


class _Sampling(NamedTuple):
    """Static parameters of one call."""

    output_size: int
    ratio: int
    """Samples per bin and axis, 0 if adaptive."""
    shapes: tuple[tuple[int, ...], ...]
    """(H, W, C) of each level."""
    dtype: Any
    """Dtype of the features."""


def align_in_loops(
    features: tuple[Float[Array, "_ _ C"], ...], rois: CellRois, *, output_size: int, sampling_ratio: int
) -> Float[Array, "n S S C"]:
    """Returns the pooled features of the RoIs of one image, float32. `vmap` merges all images into one call."""
    shapes = tuple(feature.shape for feature in features)
    sampling = _Sampling(output_size, sampling_ratio, shapes, features[0].dtype)
    return _pool(sampling, tuple(feature[None] for feature in features), rois)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(sampling: _Sampling, features: tuple[Array, ...], rois: CellRois) -> Array:
    return _for_all_images(partial(_pool_images, sampling))(features, rois)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _spread(sampling: _Sampling, upstream: Array, rois: CellRois) -> tuple[Array, ...]:
    """Returns the gradients of the features from those of the pooled features, `upstream`: the transpose of `_pool`."""
    return _for_all_images(partial(_spread_images, sampling))(upstream, rois)


_pool.defvjp(
    lambda sampling, features, rois: (_pool(sampling, features, rois), rois),
    lambda sampling, rois, upstream: (_spread(sampling, upstream, rois), None),
)
_spread.defvjp(
    lambda sampling, upstream, rois: (_spread(sampling, upstream, rois), rois),
    lambda sampling, rois, features: (_pool(sampling, features, rois), None),
)


def _for_all_images(function: Callable[..., Any], num_images: int = 1) -> Callable[..., Any]:
    """Returns `function` for `num_images` images; `vmap` calls it once, with the images and RoIs of all rows.

    JAX's own batching would run the loops of all rows in lockstep.
    """
    call = custom_vmap(partial(function, num_images))

    @call.def_vmap
    def call_once(num_rows: int, is_batched: Any, values: Any, rois: CellRois) -> tuple[Any, Any]:
        def flatten(leaf: Array, is_batched: bool) -> Array:
            rows = leaf if is_batched else jnp.broadcast_to(leaf, (num_rows, *leaf.shape))
            return rows.reshape(-1, *rows.shape[2:])

        values, rois = jax.tree.map(flatten, (values, rois), tuple(is_batched))
        row = jnp.repeat(jnp.arange(num_rows), rois.image.shape[0] // num_rows)
        rois = rois._replace(image=rois.image + row * num_images)
        results = _for_all_images(function, num_rows * num_images)(values, rois)
        batched = jax.tree.map(lambda leaf: leaf.reshape(num_rows, -1, *leaf.shape[1:]), results)
        return batched, jax.tree.map(lambda _: True, batched)

    return call


def _pool_images(sampling: _Sampling, num_images: int, features: tuple[Array, ...], rois: CellRois) -> Array:
    size, channels = sampling.output_size, sampling.shapes[0][2]
    order, rois, borders = _sort_by_level(rois, len(features))
    pooled = jnp.zeros((len(order), size, size, channels), jnp.float32)
    for level, feature in enumerate(features):
        pool_roi = partial(_pool_roi, sampling, feature, rois, order)
        rows = jnp.zeros((size, *feature.shape[2:]), jnp.float32)
        pooled, _ = jax.lax.fori_loop(borders[level], borders[level + 1], pool_roi, (pooled, rows))
    return pooled


def _spread_images(sampling: _Sampling, num_images: int, upstream: Array, rois: CellRois) -> tuple[Array, ...]:
    order, rois, borders = _sort_by_level(rois, len(sampling.shapes))
    gradients = []
    for level, shape in enumerate(sampling.shapes):
        spread_roi = partial(_spread_roi, sampling, upstream, rois, order)
        zeros = (num_images, *shape), (sampling.output_size, *shape[1:])  # many bins share a cell: float32
        carry = tuple(jnp.zeros(shape, jnp.float32) for shape in zeros)
        gradient, _ = jax.lax.fori_loop(borders[level], borders[level + 1], spread_roi, carry)
        gradients.append(gradient.astype(sampling.dtype))
    return tuple(gradients)


def _sort_by_level(rois: CellRois, num_levels: int) -> tuple[Array, CellRois, Array]:
    """Returns the order of the RoIs by level, the RoIs in this order, and the start of each level, then the end."""
    counts = jnp.sum(rois.level[:, None] == jnp.arange(num_levels)[None], axis=0)
    order = jnp.argsort(rois.level)
    sorted_rois = jax.tree.map(lambda column: column[order], rois)
    return order, sorted_rois, jnp.concatenate([jnp.zeros(1, counts.dtype), jnp.cumsum(counts)])


def _pool_roi(
    sampling: _Sampling, feature: Array, rois: CellRois, order: Array, place: Array, carry: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Writes one RoI into `pooled`; `rows` [S, W, C] holds its averages along y and arbitrary values elsewhere."""
    pooled, rows = carry
    size, channels = pooled.shape[1], pooled.shape[3]
    index, roi = jax.tree.map(lambda column: _row(column, place), (order, rois))
    along_y, along_x = (_Axis(sampling, roi, axis, feature.shape[1 + axis]) for axis in (0, 1))
    width, num_strips, left_of = along_x.strips()

    def pool_strip(strip: Array, rows: Array) -> Array:
        left, _ = left_of(strip)

        def read(cell: Array) -> Array:
            row = _take(feature, (roi.image, cell, left, 0), (1, 1, width, channels))
            return row[0].astype(jnp.float32)

        def pool_bin(bin: Array, rows: Array) -> Array:
            return _put(rows, along_y.average(bin, read, (1, width, channels)), (bin, left, 0))

        return jax.lax.fori_loop(0, size, pool_bin, rows)

    rows = jax.lax.fori_loop(0, num_strips, pool_strip, rows)

    def pool_column(bin: Array, pooled: Array) -> Array:
        def read(cell: Array) -> Array:
            return _take(rows, (0, cell, 0), (size, 1, channels))

        column = along_x.average(bin, read, (size, 1, channels))
        return _put(pooled, column[None], (index, 0, bin, 0))

    return jax.lax.fori_loop(0, size, pool_column, pooled), rows


def _spread_roi(
    sampling: _Sampling, upstream: Array, rois: CellRois, order: Array, place: Array, carry: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Adds the gradients of one RoI to `gradient` [B, H, W, C]: the steps of `_pool_roi` in reverse."""
    gradient, rows = carry
    size, channels = upstream.shape[1], upstream.shape[3]
    index, roi = jax.tree.map(lambda column: _row(column, place), (order, rois))
    along_y, along_x = (_Axis(sampling, roi, axis, gradient.shape[1 + axis]) for axis in (0, 1))
    width, num_strips, left_of = along_x.strips()

    def clear_strip(strip: Array, rows: Array) -> Array:
        return _put(rows, jnp.zeros((size, width, channels)), (0, left_of(strip)[0], 0))

    def spread_column(bin: Array, rows: Array) -> Array:
        column = _take(upstream, (index, 0, bin, 0), (1, size, 1, channels))[0]

        def add(sample: Array, rows: Array) -> Array:
            cell, weights = along_x.weigh_cells(bin, sample)
            return _add_at(rows, column * weights[None, :, None], (0, cell, 0))

        return along_x.for_each_sample(add, rows)

    rows = jax.lax.fori_loop(0, num_strips, clear_strip, rows)
    rows = jax.lax.fori_loop(0, size, spread_column, rows)

    def spread_strip(strip: Array, gradient: Array) -> Array:
        left, is_new = left_of(strip)

        def spread_bin(bin: Array, gradient: Array) -> Array:
            row = _take(rows, (bin, left, 0), (1, width, channels))
            row = jnp.where(is_new[None, :, None], row, 0.0)

            def add(sample: Array, gradient: Array) -> Array:
                cell, weights = along_y.weigh_cells(bin, sample)
                return _add_at(gradient, (row * weights[:, None, None])[None], (roi.image, cell, left, 0))

            return along_y.for_each_sample(add, gradient)

        return jax.lax.fori_loop(0, size, spread_bin, gradient)

    return jax.lax.fori_loop(0, num_strips, spread_strip, gradient), rows


def _row(array: Array, index: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(array, index, keepdims=False, allow_negative_indices=False)


def _add_at(array: Array, terms: Array, start: tuple[Any, ...]) -> Array:
    return _put(array, _take(array, start, terms.shape) + terms, start)


class _Axis:
    """The bins and samples of one RoI along one axis of `length` cells."""

    def __init__(self, sampling: _Sampling, roi: CellRois, axis: int, length: int):
        size, self.ratio, self.length = sampling.output_size, sampling.ratio, length
        self.start, self.bin_side = roi.starts[axis], roi.sides[axis] / size
        self.end = jnp.maximum(roi.ends[axis], 1)
        self.last_bin = jnp.int32(size - 1)
        most = max(ceil_div(length, size) + 1, 1)  # for RoIs that are not longer than the map
        adaptive = jnp.clip(jnp.ceil(self.bin_side), 0.0, most).astype(jnp.int32)
        self.count = jnp.int32(self.ratio) if self.ratio else adaptive

    def for_each_sample(self, function: Callable[[Any, Any], Any], carry: Any) -> Any:
        return jax.lax.fori_loop(0, self.ratio or self.count, function, carry, unroll=bool(self.ratio) or None)

    def average(self, bin: Array, read: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
        """Returns the average of the bin's samples; `read` returns a cell."""

        def add(sample: Array, total: Array) -> Array:
            position, weight = self.locate(bin, sample)
            low = jnp.floor(position)
            cell = low.astype(jnp.int32)
            high = read(jnp.minimum(cell + 1, self.end - 1)) * (position - low)
            return total + weight * (read(cell) * (1.0 - (position - low)) + high)

        return self.for_each_sample(add, jnp.zeros(shape, jnp.float32))

    def weigh_cells(self, bin: Array, sample: Array) -> tuple[Array, Array]:
        """Returns the first of the two cells around a sample and the weights [2] of both; [1] if there is one cell."""
        position, weight = self.locate(bin, sample)
        count = min(2, self.length)
        first = jnp.minimum(jnp.floor(position).astype(jnp.int32), self.length - count)
        distances = jnp.abs(position - (first + jnp.arange(count)).astype(jnp.float32))
        return first, weight * jnp.maximum(1.0 - distances, 0.0)

    def locate(self, bin: Array, sample: Array) -> tuple[Array, Array]:
        """Returns the position of a sample in cells, and its weight in the bin."""
        count = jnp.maximum(self.count, 1).astype(jnp.float32)
        end = self.end.astype(jnp.float32)
        position = self.start + bin * self.bin_side + (sample + 0.5) * self.bin_side / count
        is_inside = (position >= -1.0) & (position <= end)
        return jnp.clip(position, 0.0, end - 1.0), jnp.where(is_inside, 1.0 / count, 0.0)

    def strips(self) -> tuple[int, Array, Callable[[Array], tuple[Array, Array]]]:
        """Returns the width of a strip, the number of strips that cover all samples, and a function of a strip's index.

        The function returns the strip's first cell and which of its cells [width] are not in the previous strip: strips
        that would pass the end of the map are shifted back.
        """
        width = min(STRIP, self.length)
        ends = (self.locate(jnp.int32(0), jnp.int32(0)), self.locate(self.last_bin, self.count - 1))
        cells = [jnp.clip(jnp.floor(position).astype(jnp.int32), 0, self.length - 1) for position, _ in ends]
        first, last = jnp.minimum(*cells), jnp.maximum(*cells)

        def left_of(strip: Array) -> tuple[Array, Array]:
            wanted = first + strip * width
            left = jnp.minimum(wanted, self.length - width)
            return left, left + jnp.arange(width) >= wanted

        return width, (last + 1 - first) // width + 1, left_of
