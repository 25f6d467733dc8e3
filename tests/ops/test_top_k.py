"""The k largest in groups: the same values and indices as of a stable sort."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrcnn_jax.ops.top_k import best_group_size, find_in_groups, find_largest


def stable_sort(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.argsort(-values.astype(np.float64), axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(values, index, axis=-1), index


@pytest.mark.parametrize(
    ("count", "k", "size"),
    [(1000, 10, 10), (1000, 100, 3), (999, 7, 13), (64, 8, 8), (65, 9, 7), (30, 30, 1), (100, 1, 10)],
)
@pytest.mark.parametrize("kinds", [2, 40, 10**6])
def test_in_groups_equals_a_stable_sort(count: int, k: int, size: int, kinds: int) -> None:
    rng = np.random.default_rng(count + kinds)
    values = (rng.integers(0, kinds, (20, count)) - kinds // 2).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = -np.inf  # as of anchors that are not valid
    values[0], values[1, 3:] = -np.inf, -np.inf
    found = jax.jit(jax.vmap(partial(find_in_groups, k=k, size=size)))(values)
    for mine, expected in zip(found, stable_sort(values, k), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_groups_sort_less_and_there_are_as_many_as_wanted() -> None:
    assert best_group_size(268_569, 256) == 32 and best_group_size(201_600, 2000) == 10
    for count in (1, 2, 5, 100, 819, 3150, 12_600):
        for k in {1, count // 2 or 1, count}:
            size = best_group_size(count, k)
            assert size == 1 or (-(-count // size) >= k and -(-count // size) + k * size < count)


def test_every_platform_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = jnp.asarray(np.random.default_rng(0).integers(0, 9, 500), jnp.float32)
    expected = stable_sort(np.asarray(values), 20)
    assert best_group_size(500, 20) > 1
    for platform in ("cuda", "default"):
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, p=platform, **forms: forms[p](*x))
        for mine, theirs in zip(find_largest(values, 20), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
