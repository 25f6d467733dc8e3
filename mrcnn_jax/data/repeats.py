"""Repeat-factor sampling (LVIS, arXiv 1908.03195, appendix B): images of rare categories come up more often."""

from collections.abc import Sequence

import numpy as np

_REPEATS = 3  # a purpose, beside those in plan.py


def repeat_factors(labels: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """The repeat factor of each record, float64 [N], 1 or more, from the labels of its objects.

    A category that a share f of all records shows has the factor max(1, sqrt(threshold / f)), a record the largest
    factor of its categories.
    """
    present = [np.unique(of_record) for of_record in labels]
    counts = np.bincount(np.concatenate([*present, np.zeros(0, np.int64)]).astype(np.int64))
    shares = np.maximum(counts, 1) / len(labels)  # labels that are nowhere are never looked up
    of_category = np.maximum(1.0, np.sqrt(threshold / shares))
    return np.array([of_category[of_record].max(initial=1.0) for of_record in present])


def repeat_records(factors: np.ndarray, seed: int) -> np.ndarray:
    """Indices of records, each as often as its factor [N] says, int64 [M], ascending.

    Fractions are drawn once for the whole run, from the seed: every epoch has the same records, as the plan needs it,
    and over records, not over epochs, repeats are right on average.
    """
    whole = np.floor(factors)
    rng = np.random.default_rng((seed, _REPEATS))
    repeats = whole + (rng.random(len(factors)) < factors - whole)
    return np.repeat(np.arange(len(factors)), repeats.astype(np.int64))
