"""Checks of RoIAlign, its gradient, the levels of RoIs, and mask targets.

RoIAlign treats all channels alike, so random signs over channels reduce them to one, which is computed in float64 for
every RoI. Bilinear weights are separable, so that one RoI is the product of the features with two small matrices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from mrcnn_jax.ops import masks, roi_align
from mrcnn_jax.selftest.findings import EXACT, REDUCED, Finding, Setting, random_of, relative_error, shape_text

STRIDES = (4, 8, 16, 32)
POSITIONS = 3e-4
"""Tolerance for float32 positions of samples, up to 336 cells: they and the weights differ by 1e-5 cells."""
BITMAP = 112
MASK_SIZE = 28


@dataclass(frozen=True)
class Pooling:
    """A use of RoIAlign in the network."""

    name: str
    output_size: int
    sampling_ratio: int
    aligned: bool
    share: int
    """One in this many RoIs is pooled."""
    channels: int = 256
    dtype: str = "float32"


POOLINGS = (
    Pooling("7x7, 2x2 samples", 7, 2, False, share=1),
    Pooling("14x14, 2x2 samples, aligned", 14, 2, True, share=4),
    Pooling("7x7, 2x2 samples, bfloat16", 7, 2, True, share=4, dtype="bfloat16"),
    Pooling("7x7, adaptive, aligned", 7, 0, True, share=16, channels=64),
)


def check_roi_align(setting: Setting, poolings: tuple[Pooling, ...] = POOLINGS) -> Iterator[Finding]:
    """Checks the values of RoIAlign on four levels, and its gradients in the features."""
    for pooling in poolings:
        rng = random_of(repr(pooling))
        count, channels = max(setting.num_rois // pooling.share, 8), pooling.channels
        rois = draw_rois(rng, setting.canvas, count)
        levels = rng.integers(0, len(STRIDES), count).astype(np.int32)
        drawn = [rng.standard_normal((*setting.map_hw(stride), channels), dtype=np.float32) for stride in STRIDES]
        features = [jnp.asarray(values, pooling.dtype) for values in drawn]
        upstream = jnp.asarray(
            rng.standard_normal((count, pooling.output_size, pooling.output_size, channels)), pooling.dtype
        )

        def run(
            features: Sequence[jax.Array],
            rois: jax.Array,
            levels: jax.Array,
            upstream: jax.Array,
            pooling: Pooling = pooling,
        ) -> tuple[jax.Array, list[jax.Array]]:
            def align(features: Sequence[jax.Array]) -> jax.Array:
                return roi_align.align_rois(
                    features,
                    rois,
                    levels,
                    strides=STRIDES,
                    output_size=pooling.output_size,
                    sampling_ratio=pooling.sampling_ratio,
                    aligned=pooling.aligned,
                )

            pooled, backward = jax.vjp(align, features)
            return pooled, backward(upstream)[0]

        pooled, gradients = jax.jit(run)(features, rois, levels, upstream)
        signs = rng.choice([-1.0, 1.0], channels)
        flat = [np.asarray(values, np.float64) @ signs for values in features]
        expected, expected_gradients = pool_in_float64(
            flat, rois, levels, np.asarray(upstream, np.float64) @ signs, pooling
        )
        allowed = POSITIONS if pooling.dtype == "float32" else REDUCED
        kind, size = f"RoIAlign {pooling.name}", f"{count} RoIs, {channels} channels"
        yield Finding(kind, size, relative_error(np.asarray(pooled, np.float64) @ signs, expected), allowed)
        found = np.concatenate([(np.asarray(part, np.float64) @ signs).ravel() for part in gradients])
        truth = np.concatenate([part.ravel() for part in expected_gradients])
        yield Finding(f"{kind}: gradient", size, relative_error(found, truth), allowed)


def draw_rois(rng: np.random.Generator, canvas: tuple[int, int], count: int) -> np.ndarray:
    """Returns [n, 4] float32 boxes with sides from 4 pixels to the whole canvas, some partly outside of it."""
    height, width = canvas
    sides = np.exp(rng.uniform(np.log(4), np.log([width, height]), (count, 2)))
    corners = rng.uniform(-0.1, 1.0, (count, 2)) * ([width, height] - 0.8 * sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def pool_in_float64(
    features: list[np.ndarray], rois: np.ndarray, levels: np.ndarray, upstream: np.ndarray, pooling: Pooling
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns pooled features [n, S, S] of features [H, W], and the gradients in the latter."""
    pooled, gradients = np.zeros(upstream.shape), [np.zeros(values.shape) for values in features]
    for index, (roi, level) in enumerate(zip(rois.astype(np.float64), levels, strict=True)):
        height, width = features[level].shape
        x0, y0, x1, y1 = roi / STRIDES[level]
        rows = axis_weights(y0, y1, height, pooling.output_size, pooling.sampling_ratio, pooling.aligned)
        columns = axis_weights(x0, x1, width, pooling.output_size, pooling.sampling_ratio, pooling.aligned)
        pooled[index] = rows @ features[level] @ columns.T
        gradients[level] += rows.T @ upstream[index] @ columns
    return pooled, gradients


def axis_weights(start: float, end: float, length: int, size: int, ratio: int, aligned: bool) -> np.ndarray:
    """Returns [S, L]: the weight of each cell in each bin along one axis, as mean of the bin's bilinear samples."""
    shift = 0.5 if aligned else 0.0
    side = end - start if aligned else max(end - start, 1.0)
    count = ratio or max(int(np.ceil(side / size)), 1)
    samples = start - shift + (np.arange(size * count) + 0.5) * side / (size * count)
    inside = (samples >= -1) & (samples <= length)
    samples = np.clip(samples, 0, length - 1)
    low = np.minimum(samples.astype(int), length - 1)
    high = np.minimum(low + 1, length - 1)
    weights = np.zeros((size * count, length))
    each = np.arange(size * count)
    np.add.at(weights, (each, low), (1 - (samples - low)) * inside)
    np.add.at(weights, (each, high), (samples - low) * inside)
    return weights.reshape(size, count, length).mean(axis=1)


def check_levels(setting: Setting) -> Iterator[Finding]:
    """Checks the level of each RoI (FPN, equation 1), except for RoIs within rounding of a border between two."""
    rng = random_of("levels")
    rois = draw_rois(rng, setting.canvas, 1000)
    sides = np.sqrt(np.prod(rois[:, 2:].astype(np.float64) - rois[:, :2], axis=1))
    exact = 2 + np.log2(sides / 224)
    clear = np.abs(exact - np.round(exact)) > 1e-4
    found = np.asarray(jax.jit(lambda rois: roi_align.assign_levels(rois, len(STRIDES)))(rois))
    wrong = (found != np.clip(np.floor(exact), 0, len(STRIDES) - 1)) & clear
    yield Finding("levels of RoIs", "1000 RoIs", float(wrong.sum()), EXACT)


def check_mask_targets(setting: Setting) -> Iterator[Finding]:
    """Checks mask targets of RoIs near their objects, except for cells that are half covered within rounding."""
    kind = "mask targets"
    rng = random_of(kind)
    slots, count = 8, max(setting.num_rois // 4, 8)
    boxes = draw_rois(rng, setting.canvas, slots)
    grid = (np.arange(BITMAP) + 0.5) / BITMAP - 0.5
    radii = rng.uniform(0.2, 0.5, (2, slots, 1, 1))
    bitmaps = ((grid[:, None] / radii[0]) ** 2 + (grid[None, :] / radii[1]) ** 2 < 1).astype(np.uint8)  # ellipses
    matched = rng.integers(0, slots, count).astype(np.int32)
    sides = np.tile(boxes[matched, 2:] - boxes[matched, :2], 2)
    rois = (boxes[matched] + rng.uniform(-0.2, 0.2, (count, 4)) * sides).astype(np.float32)
    covered = np.zeros((count, MASK_SIZE, MASK_SIZE))
    for index, (roi, box) in enumerate(zip(rois.astype(np.float64), boxes[matched].astype(np.float64), strict=True)):
        cells = BITMAP / np.tile(box[2:] - box[:2], 2)
        x0, y0, x1, y1 = (roi - np.tile(box[:2], 2)) * cells
        rows = axis_weights(y0, y1, BITMAP, MASK_SIZE, masks.SAMPLES_PER_CELL, True)
        columns = axis_weights(x0, x1, BITMAP, MASK_SIZE, masks.SAMPLES_PER_CELL, True)
        covered[index] = rows @ bitmaps[matched[index]] @ columns.T
    run = jax.jit(lambda *inputs: masks.sample_mask_targets(*inputs, output_size=MASK_SIZE))
    for name, allowed in setting.at_precisions(kind):
        clear = np.abs(covered - masks.HALF_COVERED) > max(allowed, 1e-4)
        found = np.asarray(run(bitmaps, boxes, rois, matched))
        wrong = (found != (covered >= masks.HALF_COVERED)) & clear
        yield Finding(name, f"{count} RoIs, {shape_text(*bitmaps.shape)}", float(wrong.sum()), EXACT)
