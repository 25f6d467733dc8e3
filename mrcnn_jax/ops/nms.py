"""Exact greedy non-maximum suppression with static shapes, computed in parallel tiles.

Shapes: b images, n boxes, k kept, T boxes in a tile.

Boxes are visited in tiles of descending score. A tile is first suppressed by all boxes kept before it. Inside the tile,
the greedy result is the unique fixed point of "kept = not overlapped by a kept box of higher score", which is found by
iterating until nothing changes. The loop over tiles ends as soon as enough boxes are kept.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrcnn_jax.integers import ceil_div
from mrcnn_jax.ops.boxes import compute_iou
from mrcnn_jax.platforms import choose_form


class Kept(NamedTuple):
    """Indices of the kept boxes by descending score, ties by lowest index; invalid slots point to box 0."""

    indices: Int[Array, "k"]
    valid: Bool[Array, "k"]


@jax.named_scope("suppress_overlaps")
def suppress_overlaps(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    valid: Bool[Array, "n"],
    groups: Int[Array, "n"],
    *,
    iou_threshold: float,
    max_kept: int,
    tile_size: int = 256,
) -> Kept:
    """Returns the first `max_kept` boxes of greedy NMS.

    A box is dropped when its IoU with a kept box of the same group is above `iou_threshold`. Groups are pyramid levels
    or classes; boxes of different groups do not affect each other. Under `vmap`, all images visit their tiles together.
    """
    suppress = partial(_suppress_batch, iou_threshold=iou_threshold, max_kept=max_kept, tile_size=tile_size)

    # JAX's own batching rule would give each image its own tile counter and trace the nested loops many times.
    @jax.custom_batching.custom_vmap
    def suppress_one(*columns: Array) -> tuple[Array, ...]:
        return tuple(kept[0] for kept in suppress(*(column[None] for column in columns)))

    @suppress_one.def_vmap
    def suppress_all(
        count: Any, are_batched: list[bool], *columns: Array
    ) -> tuple[tuple[Array, ...], tuple[bool, bool]]:
        pairs = zip(columns, are_batched, strict=True)
        rows = [x if is_batched else jnp.broadcast_to(x, (count, *x.shape)) for x, is_batched in pairs]
        return suppress(*rows), (True, True)

    return Kept(*suppress_one(*jax.lax.stop_gradient((boxes, scores, valid, groups))))


def _suppress_batch(
    boxes: Float[Array, "b n 4"],
    scores: Float[Array, "b n"],
    valid: Bool[Array, "b n"],
    groups: Int[Array, "b n"],
    *,
    iou_threshold: float,
    max_kept: int,
    tile_size: int,
) -> tuple[Int[Array, "b k"], Bool[Array, "b k"]]:
    """Returns the fields of `Kept` for each image."""
    num_boxes = boxes.shape[1]
    tile_size = min(tile_size, num_boxes)
    num_tiles = ceil_div(num_boxes, tile_size)
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), axis=1, stable=True)  # valid first, by descending score

    def cut(column: Array) -> Array:
        """Returns a column [b, n, ...], sorted by `order`, as [b, tiles, T, ...]."""
        index = order.reshape(*order.shape, *[1] * (column.ndim - 2))
        padding = [(0, 0), (0, num_tiles * tile_size - num_boxes), *[(0, 0)] * (column.ndim - 2)]
        rows = jnp.pad(jnp.take_along_axis(column, index, axis=1), padding)
        return rows.reshape(column.shape[0], num_tiles, tile_size, *column.shape[2:])

    tiles, tile_groups, tile_valid = cut(boxes), cut(groups), cut(valid)
    is_earlier = jnp.tri(tile_size, k=-1, dtype=bool).T[None]  # [1, above, below]: above has the higher score
    take = partial(jax.lax.dynamic_index_in_dim, axis=1, keepdims=False)

    def overlaps(above: Array, below: Array) -> Array:
        same_group = take(tile_groups, above)[:, :, None] == take(tile_groups, below)[:, None, :]
        return same_group & (jax.vmap(compute_iou)(take(tiles, above), take(tiles, below)) > iou_threshold)  # [b, T, T]

    def is_needed(carry: tuple[Array, Array, Array]) -> Array:
        tile, _, counts = carry
        return (tile < num_tiles) & jnp.any((counts < max_kept) & jnp.any(take(tile_valid, tile), axis=1))

    def visit_tile(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        tile, keep, counts = carry

        def by_tiles(tile: Array, keep: Array) -> Array:
            def suppress_by(earlier: Array, alive: Array) -> Array:
                return alive & ~jnp.any(overlaps(earlier, tile) & take(keep, earlier)[:, :, None], axis=1)

            return jax.lax.fori_loop(0, tile, suppress_by, take(tile_valid, tile))

        def by_all(tile: Array, keep: Array) -> Array:  # boxes of later tiles are not kept yet
            every, groups, kept = (x.reshape(x.shape[0], -1, *x.shape[3:]) for x in (tiles, tile_groups, keep))
            same_group = groups[:, :, None] == take(tile_groups, tile)[:, None, :]
            is_over = jax.vmap(compute_iou)(every, take(tiles, tile)) > iou_threshold  # [b, n or so, T]
            return take(tile_valid, tile) & ~jnp.any(same_group & is_over & kept[:, :, None], axis=1)

        # On a GPU, comparing with all boxes takes no longer than launching a few kernels for each earlier tile.
        alive = choose_form(tile, keep, gpu=by_all, default=by_tiles)
        kept = _greedy_fixed_point(overlaps(tile, tile) & is_earlier, alive)
        keep = jax.lax.dynamic_update_index_in_dim(keep, kept, tile, axis=1)
        return tile + 1, keep, counts + jnp.sum(kept, axis=1)

    start = (jnp.int32(0), jnp.zeros_like(tile_valid), jnp.zeros(boxes.shape[0], jnp.int32))
    _, keep, _ = jax.lax.while_loop(is_needed, visit_tile, start)
    keep = keep.reshape(boxes.shape[0], -1)[:, :num_boxes]
    slots = jnp.argsort(~keep, axis=1, stable=True)[:, :max_kept]  # positions in `order`
    kept_valid = jnp.take_along_axis(keep, slots, axis=1)
    index = jnp.where(kept_valid, jnp.take_along_axis(order, slots, axis=1), 0).astype(jnp.int32)
    missing = ((0, 0), (0, max(max_kept - num_boxes, 0)))
    return jnp.pad(index, missing), jnp.pad(kept_valid, missing)


def _greedy_fixed_point(suppresses: Bool[Array, "b T T"], alive: Bool[Array, "b T"]) -> Bool[Array, "b T"]:
    """Returns which of the alive boxes greedy NMS keeps; suppresses[:, i, j]: box i, if kept, drops box j."""

    def refine(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        kept, _ = carry
        refined = alive & ~jnp.any(suppresses & kept[:, :, None], axis=1)
        return refined, jnp.any(refined != kept)

    kept, _ = jax.lax.while_loop(lambda carry: carry[1], refine, (alive, jnp.bool_(True)))
    return kept
