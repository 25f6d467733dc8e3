"""Keypoint targets and their loss against a NumPy oracle in float64, with numerical gradients.

Shapes: n RoIs, K keypoints, h heat-map side.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.ops.keypoints import encode_keypoints
from mrcnn_jax.ops.losses import keypoint_loss

SIZE = 4
encode = jax.jit(partial(encode_keypoints, size=SIZE))
loss_and_gradient = jax.jit(jax.value_and_grad(keypoint_loss))
ROIS = np.array([[10, 20, 18, 36], [-3, 5, 1, 7], [0.5, 0.25, 64.5, 1.25]], np.float32)  # cells 2 x 4, 1 x 0.5, ...


def find_cell(position: float, start: float, end: float, size: int) -> int | None:
    """The one of `size` equal half-open cells that holds the position, the end in the last; None outside."""
    edges = [start + (end - start) * k / size for k in range(size + 1)]
    if position == end:
        return size - 1
    return next((k for k in range(size) if edges[k] <= position < edges[k + 1]), None)


def target_oracle(keypoints: np.ndarray, roi: np.ndarray, size: int) -> list[tuple[int, int] | None]:
    """(row, column) of each keypoint that counts; None for the others."""
    x0, y0, x1, y1 = roi.astype(np.float64)
    found = []
    for x, y, visibility in keypoints.astype(np.float64):
        row, column = find_cell(y, y0, y1, size), find_cell(x, x0, x1, size)
        found.append((row, column) if visibility > 0 and row is not None and column is not None else None)
    return found


def loss_oracle(logits: np.ndarray, targets: list[list[tuple[int, int] | None]]) -> float:
    """Mean of -log softmax over all cells at the target's, over the keypoints that have one; 0 without any."""
    terms = []
    for maps, cells in zip(np.asarray(logits, np.float64), targets, strict=True):
        for heat_map, cell in zip(maps, cells, strict=True):
            if cell is not None:
                highest = heat_map.max()
                total = math.fsum(math.exp(value - highest) for value in heat_map.ravel())
                terms.append(highest + math.log(total) - heat_map[cell])
    return math.fsum(terms) / len(terms) if terms else 0.0


def numerical_gradient(logits: np.ndarray, targets: list[list[tuple[int, int] | None]]) -> np.ndarray:
    """Central differences of the oracle."""
    logits, step = np.asarray(logits, np.float64), 1e-5
    gradient = np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        beside = [logits.copy(), logits.copy()]
        beside[0][index] += step
        beside[1][index] -= step
        gradient[index] = (loss_oracle(beside[0], targets) - loss_oracle(beside[1], targets)) / (2 * step)
    return gradient


def as_pairs(cells: jax.Array, valid: jax.Array, size: int = SIZE) -> list[list[tuple[int, int] | None]]:
    """The targets in the oracle's form."""
    return [
        [divmod(cell, size) if counts else None for cell, counts in zip(row, seen, strict=True)]
        for row, seen in zip(cells.tolist(), valid.tolist(), strict=True)
    ]


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints [3, 5, 3] in and around the RoIs, of any visibility; the RoIs; logits [3, 5, h, h]."""
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = ROIS.T[..., None]
    share = rng.uniform(-0.2, 1.2, (2, 3, 5))
    points = [x0 + share[0] * (x1 - x0), y0 + share[1] * (y1 - y0), rng.integers(0, 3, (3, 5))]
    return np.stack(points, axis=-1).astype(np.float32), ROIS, rng.normal(0, 2, (3, 5, SIZE, SIZE)).astype(np.float32)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, 0),  # on x0 or y0
        (0.25, 1),  # between the first two cells: the second
        (np.nextafter(np.float32(0.25), np.float32(0)), 0),
        (0.5, 2),
        (0.99999, 3),
        (1.0, 3),  # on x1 or y1
        (-1e-4, None),
        (1.0001, None),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_borders(share: float, expected: int | None, axis: int) -> None:
    roi = np.array([[0, 0, 8, 2]] if axis == 0 else [[0, 0, 2, 8]], np.float32)
    point = np.array([[[1.25, 1.25, 2]]], np.float32)  # in the third of four cells along the other axis
    point[0, 0, axis] = 8 * np.float32(share)
    cells, valid = encode(jnp.asarray(point), jnp.asarray(roi))
    cell = None if expected is None else ((2, expected) if axis == 0 else (expected, 2))
    assert as_pairs(cells, valid) == [[cell]] == [target_oracle(point[0], roi[0], SIZE)]
    assert cells.dtype == jnp.int32 and (expected is not None or cells.tolist() == [[0]])


@pytest.mark.parametrize(("visibility", "counts"), [(0, False), (1, True), (2, True)])
def test_occluded_keypoints_count_and_those_not_annotated_do_not(visibility: int, counts: bool) -> None:
    points = jnp.array([[[12.0, 30.0, visibility]]])
    cells, valid = encode(points, jnp.asarray(ROIS[:1]))
    assert (cells.tolist(), valid.tolist()) == ([[9]] if counts else [[0]], [[counts]])


@pytest.mark.parametrize("seed", range(3))
def test_targets_equal_the_oracle(seed: int) -> None:
    keypoints, rois, _ = random_case(seed)
    expected = [target_oracle(*pair, SIZE) for pair in zip(keypoints, rois, strict=True)]
    assert {None} < {cell for row in expected for cell in row}
    found = encode_keypoints(jnp.asarray(keypoints), jnp.asarray(rois), size=SIZE)
    assert as_pairs(*found) == expected
    compiled = encode(jnp.asarray(keypoints), jnp.asarray(rois))
    stacked = jax.vmap(lambda points: encode_keypoints(points, jnp.asarray(rois), size=SIZE))(
        jnp.stack([keypoints] * 2)
    )
    for plain, jitted, mapped in zip(found, compiled, stacked, strict=True):
        np.testing.assert_array_equal(jitted, plain)
        np.testing.assert_array_equal(mapped, [plain, plain])


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_equal_the_oracle(seed: int) -> None:
    keypoints, rois, logits = random_case(seed)
    targets = [target_oracle(*pair, SIZE) for pair in zip(keypoints, rois, strict=True)]
    cells, valid = encode(jnp.asarray(keypoints), jnp.asarray(rois))
    value, gradient = loss_and_gradient(logits, cells, valid)
    assert value.dtype == jnp.float32 and value == pytest.approx(loss_oracle(logits, targets), rel=1e-6)
    # Float32 probabilities of at most 1 on one side, differences with an error of 1e-10 on the other.
    np.testing.assert_allclose(gradient, numerical_gradient(logits, targets), atol=1e-6)
    np.testing.assert_allclose(np.sum(gradient, axis=(2, 3)), np.zeros((3, 5)), atol=1e-6)  # a softmax's sum to 0
    counts = np.array([[cell is not None for cell in row] for row in targets])
    assert not np.asarray(gradient)[~counts].any() and np.asarray(gradient)[counts].any(axis=(1, 2)).all()


def test_the_mean_is_over_visible_keypoints_of_all_rois() -> None:
    """Not over RoIs, nor over all keypoints: one more RoI without any, or one more hidden keypoint, is no change."""
    logits = np.random.default_rng(0).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)
    cells, valid = jnp.array([[3, 7, 0], [9, 0, 0]]), jnp.array([[True, True, False], [True, False, False]])
    terms = [
        loss_oracle(logits[r : r + 1, k : k + 1], [[divmod(c, SIZE)]]) for r, k, c in ((0, 0, 3), (0, 1, 7), (1, 0, 9))
    ]
    value = keypoint_loss(jnp.asarray(logits), cells, valid)
    assert value == pytest.approx(sum(terms) / 3, rel=1e-6)
    for padding in ([(0, 0), (0, 2)], [(0, 2), (0, 0)]):
        more = (
            np.pad(logits, [*padding, (0, 0), (0, 0)], constant_values=1),
            np.pad(cells, padding),
            np.pad(valid, padding),
        )
        assert keypoint_loss(*map(jnp.asarray, more)) == pytest.approx(float(value))


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.inf, np.nan])
def test_without_a_visible_keypoint_loss_and_gradient_are_exactly_zero(garbage: float) -> None:
    keypoints = jnp.asarray(random_case(0)[0]).at[..., 2].set(0)
    cells, valid = encode(keypoints, jnp.asarray(ROIS))
    logits = jnp.full((3, 5, SIZE, SIZE), garbage)
    value, gradient = loss_and_gradient(logits, cells, valid)
    assert value == 0 and not np.asarray(gradient).any()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_no_rois_and_no_keypoints(shape: tuple[int, int]) -> None:
    cells, valid = encode(jnp.zeros((*shape, 3)), jnp.asarray(ROIS[: shape[0]]))
    value, gradient = loss_and_gradient(jnp.zeros((*shape, SIZE, SIZE)), cells, valid)
    assert cells.shape == shape and value == 0 and gradient.shape == (*shape, SIZE, SIZE)


def test_extreme_rois_and_logits_stay_finite() -> None:
    """A RoI without area, as padding has, with a keypoint on it and beside it; logits far beyond float32's exp."""
    points = jnp.array([[[7.0, 7, 2], [8, 7, 2], [np.nan, np.nan, 0]]])
    cells, valid = encode(points, jnp.array([[7.0, 7, 7, 7]]))
    assert valid.tolist() == [[True, False, False]] and 0 <= int(cells[0, 0]) < SIZE**2
    logits = jnp.zeros((1, 3, SIZE, SIZE)).at[0, 0, 1, 1].set(1e4)
    for cell, expected in ((SIZE + 1, 0.0), (0, 1e4)):
        value, gradient = loss_and_gradient(logits, cells.at[0, 0].set(cell), valid)
        assert value == expected and np.isfinite(gradient).all()
    assert keypoint_loss(logits.astype(jnp.bfloat16), cells, valid).dtype == jnp.float32
