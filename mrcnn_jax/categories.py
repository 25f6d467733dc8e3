"""The object classes of a data set (host side)."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One object class of a data set. Label k (1..C) of a model is the k-th category by ascending data-set id."""

    id: int
    name: str
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


def keypoint_names(categories: Sequence[Category]) -> tuple[str, ...]:
    """Returns the names of a data set's keypoints, or () if no category has keypoints.

    Raises ValueError if the categories with keypoints do not all have the same ones.
    """
    named = {category.keypoints for category in categories if category.keypoints}
    if len(named) > 1:
        raise ValueError("Expected the same keypoints in all categories that have keypoints.")
    return named.pop() if named else ()
