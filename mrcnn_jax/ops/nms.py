"""Greedy non-maximum suppression, exact, computed in parallel tiles at a static shape. Shapes: n boxes, k kept.

Boxes are visited in tiles of descending score. A tile is first suppressed by all boxes kept before it; inside the tile
the greedy answer is the only fixed point of "kept = not overlapped by a kept box of higher score", which is iterated
until nothing changes. The loop over tiles ends as soon as enough boxes are kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrcnn_jax.ops.boxes import compute_iou


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

    A box is dropped when its IoU with a kept box of the same group is above `iou_threshold`; groups are pyramid levels
    or classes, and groups do not see each other.
    """
    num_boxes = boxes.shape[0]
    tile_size = min(tile_size, num_boxes)
    num_tiles = -(-num_boxes // tile_size)
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)  # valid ones first, best first
    padding = num_tiles * tile_size - num_boxes
    tiled_boxes = jnp.pad(boxes[order], ((0, padding), (0, 0))).reshape(num_tiles, tile_size, 4)
    tiled_groups = jnp.pad(groups[order], (0, padding)).reshape(num_tiles, tile_size)
    tiled_valid = jnp.pad(valid[order], (0, padding)).reshape(num_tiles, tile_size)
    is_earlier = jnp.tri(tile_size, k=-1, dtype=bool).T  # [above, below]: above has the higher score

    def overlaps(above: Array, below: Array) -> Array:
        same_group = tiled_groups[above][:, None] == tiled_groups[below][None, :]
        return same_group & (compute_iou(tiled_boxes[above], tiled_boxes[below]) > iou_threshold)  # [T, T]

    def visit_tile(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        tile, keep, count = carry

        def suppress_by(earlier: Array, alive: Array) -> Array:
            return alive & ~jnp.any(overlaps(earlier, tile) & keep[earlier][:, None], axis=0)

        alive = jax.lax.fori_loop(0, tile, suppress_by, tiled_valid[tile])
        kept = _greedy_fixed_point(overlaps(tile, tile) & is_earlier, alive)
        return tile + 1, keep.at[tile].set(kept), count + jnp.sum(kept)

    start = (jnp.int32(0), jnp.zeros((num_tiles, tile_size), bool), jnp.int32(0))
    _, keep, _ = jax.lax.while_loop(
        lambda carry: (carry[0] < num_tiles) & (carry[2] < max_kept) & jnp.any(tiled_valid[carry[0]]), visit_tile, start
    )
    keep = keep.reshape(-1)[:num_boxes]
    slots = jnp.argsort(~keep, stable=True)[:max_kept]  # positions in `order`
    kept_valid = keep[slots]
    index = jnp.where(kept_valid, order[slots], 0).astype(jnp.int32)
    missing = max_kept - index.shape[0]
    return Kept(jnp.pad(index, (0, max(missing, 0))), jnp.pad(kept_valid, (0, max(missing, 0))))


def _greedy_fixed_point(suppresses: Bool[Array, "t t"], alive: Bool[Array, "t"]) -> Bool[Array, "t"]:
    """Returns which of the alive boxes greedy NMS keeps; suppresses[i, j]: i, if kept, drops j."""

    def refine(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        kept, _ = carry
        refined = alive & ~jnp.any(suppresses & kept[:, None], axis=0)
        return refined, jnp.any(refined != kept)

    kept, _ = jax.lax.while_loop(lambda carry: carry[1], refine, (alive, jnp.bool_(True)))
    return kept
