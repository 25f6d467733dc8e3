"""The scores of a run's evaluations, from which the best step and the end by `train.patience` follow.

Every checkpoint contains the history up to its step. So the best step and the end do not depend on where a run was
interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


class ScoredStep(NamedTuple):
    """A step and its score, of which more is better."""

    step: int
    score: float


@dataclass(frozen=True)
class ScoreHistory:
    """The scored evaluations of a run, by ascending step."""

    entries: tuple[ScoredStep, ...] = ()

    @classmethod
    def from_json(cls, content: Sequence[Sequence[Any]]) -> Self:
        """Returns the history of a list of pairs (step, score)."""
        return cls(tuple(ScoredStep(int(step), float(score)) for step, score in content))

    def add(self, step: int, score: float | None) -> "ScoreHistory":
        """Returns the history with the score of an evaluation, in place of those of this step and later ones.

        None, from an evaluation on data without objects, adds nothing.
        """
        earlier = tuple(entry for entry in self.entries if entry.step < step)
        return ScoreHistory(earlier if score is None else (*earlier, ScoredStep(step, score)))

    @property
    def best(self) -> ScoredStep | None:
        """The first step with the highest score; None if no evaluation has a score."""
        return max(self.entries, key=lambda entry: entry.score, default=None)

    @property
    def num_worse(self) -> int:
        """Evaluations since the best one. 0 as long as the best score is 0: AP of a network that finds nothing yet."""
        best = self.best
        if best is None or best.score == 0:
            return 0
        return sum(entry.step > best.step for entry in self.entries)

    def is_exhausted(self, patience: int) -> bool:
        """Returns whether the run has to end: `patience` evaluations in a row were not better. Never if it is 0."""
        return 0 < patience <= self.num_worse


NO_SCORES = ScoreHistory()


def describe_score(score: float, best_by: str) -> str:
    """Returns the score as text; `best_by` is `train.best_by` of the run."""
    return f"validation loss {-score:.4g}" if best_by == "loss" else f"AP {score:.3f}"
