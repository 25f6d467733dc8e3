"""The object classes of a data set, as the host knows them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One object class of a data set. Label k (1..C) of a model is the k-th category, by ascending data-set id."""

    id: int
    name: str
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


def keypoint_names(categories: Sequence[Category]) -> tuple[str, ...]:
    """The keypoints of a data set: those of its categories that have any, which have to agree.

    Raises ValueError if they do not.
    """
    named = {category.keypoints for category in categories if category.keypoints}
    if len(named) > 1:
        raise ValueError("Expected the same keypoints in all categories that have any.")
    return named.pop() if named else ()
