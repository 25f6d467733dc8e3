"""The order of training: equal to queues filled one record at a time, and every batch reachable directly."""

import time
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest

from mrcnn_jax.data.plan import Plan, augmentation_rng


def canvases_of(num_records: int, shares: tuple[float, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(len(shares), num_records, p=shares)


def batches_by_queues(canvases: np.ndarray, batch_size: int, seed: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """The definition: a permutation per epoch, one queue per canvas, a batch whenever a queue is full."""
    queues: dict[int, list[tuple[int, int]]] = defaultdict(list)
    epoch = 0
    while True:
        rng = np.random.default_rng(np.random.SeedSequence((seed, 1, epoch)))
        for record in rng.permutation(len(canvases)).tolist():
            queue = queues[canvases[record]]
            queue.append((record, epoch * len(canvases) + record))
            if len(queue) == batch_size:
                yield int(canvases[record]), [r for r, _ in queue], [s for _, s in queue]
                queue.clear()
        epoch += 1


@pytest.mark.parametrize(
    ("num_records", "shares", "batch_size"),
    [
        (50, (0.7, 0.3), 4),
        (50, (0.98, 0.01, 0.01), 8),
        (3, (0.5, 0.5), 16),
        (1, (1.0,), 5),
        (7, (1.0,), 7),
        (64, (1.0,), 8),
    ],
)
def test_plan_equals_queues(num_records: int, shares: tuple[float, ...], batch_size: int) -> None:
    canvases = canvases_of(num_records, shares)
    plan = Plan(canvases, batch_size=batch_size, seed=3)
    for step, (canvas, records, samples) in zip(range(60), batches_by_queues(canvases, batch_size, 3), strict=False):
        planned = plan[step]
        assert (planned.canvas, planned.records.tolist(), planned.sample_index.tolist()) == (canvas, records, samples)


def test_any_step_is_the_same_whatever_was_asked_before() -> None:
    canvases = canvases_of(101, (0.6, 0.4))
    forwards = Plan(canvases, batch_size=8, seed=1)
    expected = [forwards[step].sample_index.tolist() for step in range(100)]
    for step in (99, 3, 57, 0):
        assert Plan(canvases, batch_size=8, seed=1)[step].sample_index.tolist() == expected[step]


def test_every_record_comes_once_an_epoch() -> None:
    plan = Plan(np.zeros(64, int), batch_size=16, seed=0)
    for epoch in range(3):
        samples = np.concatenate([plan[step].sample_index for step in range(4 * epoch, 4 * epoch + 4)])
        np.testing.assert_array_equal(np.sort(samples), np.arange(64 * epoch, 64 * epoch + 64))


def test_order_changes_with_epoch_and_seed() -> None:
    first, other = (Plan(np.zeros(64, int), batch_size=64, seed=seed) for seed in (0, 1))
    orders = [first[0].records.tolist(), first[1].records.tolist(), other[0].records.tolist()]
    assert len({tuple(order) for order in orders}) == 3


def test_the_order_does_not_change_between_versions() -> None:
    plan = Plan(np.array([0, 0, 1, 0, 1, 0, 1, 0]), batch_size=2, seed=7)
    assert [plan[step].records.tolist() for step in range(5)] == [[3, 1], [6, 2], [0, 7], [5, 0], [4, 6]]
    rng = augmentation_rng(7, 3)
    assert [int(rng.integers(5)), round(rng.random(), 6)] == [1, 0.135133]


def test_a_long_run_over_a_large_set_is_planned_within_seconds() -> None:
    plan = Plan(canvases_of(118_000, (0.75, 0.25)), batch_size=16, seed=0)
    start = time.perf_counter()
    for step in range(0, 90_000, 30):
        plan[step]
    assert time.perf_counter() - start < 10  # 0.3 s alone on two cores


def test_no_records_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one record"):
        Plan(np.array([]), batch_size=1, seed=0)
