"""Repeat-factor sampling (LVIS, arXiv 1908.03195, appendix B): images of rare categories are shown more often."""

from collections.abc import Sequence

import numpy as np

_REPEATS = 3  # part of the seed, as in plan.py


def repeat_factors(labels: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """Returns the repeat factor of each record, float64 [N], at least 1, from the labels of its objects.

    A category that occurs in a share f of all records has the factor max(1, sqrt(threshold / f)). A record has the
    largest factor of its categories.
    """
    present = [np.unique(of_record) for of_record in labels]
    counts = np.bincount(np.concatenate([*present, np.zeros(0, np.int64)]).astype(np.int64))
    shares = np.maximum(counts, 1) / len(labels)  # labels that do not occur are never looked up
    of_category = np.maximum(1.0, np.sqrt(threshold / shares))
    return np.array([of_category[of_record].max(initial=1.0) for of_record in present])


def repeat_records(factors: np.ndarray, seed: int) -> np.ndarray:
    """Returns the indices of records, each repeated according to its factor [N], int64 [M], ascending.

    Fractional factors are rounded at random once for the whole run, from the seed, because the plan needs the same
    records in every epoch. The repeats are therefore right on average over records, not over epochs.
    """
    whole = np.floor(factors)
    rng = np.random.default_rng((seed, _REPEATS))
    repeats = whole + (rng.random(len(factors)) < factors - whole)
    return np.repeat(np.arange(len(factors)), repeats.astype(np.int64))
