"""What the workdir of a run contains: kept checkpoints, weights and scores, each with its step, as they are on disk.

Messages that name these files are made here, so that none of them names a file that does not exist or another step's.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn_jax import command_names

BEST_WEIGHTS = "best"
"""Weights folder in a workdir with the best step, which a run writes at its end."""


@dataclass(frozen=True)
class RunFolder:
    """A workdir as it was when `read_run_folder` read it."""

    workdir: Path
    kept: tuple[int, ...]
    """Steps of the complete checkpoints, ascending; their content is not verified."""
    has_weights: bool
    weights_step: int | None
    """Step of the weights; None if there are none, or if an earlier version wrote them without it."""
    has_scores: bool
    """Whether there is an evaluation.json."""
    scores_step: int | None
    """Step of evaluation.json, like `weights_step`."""

    @property
    def weights(self) -> Path:
        """The weights folder, which may not exist."""
        return self.workdir / "weights"

    def find_stale(self, step: int | None, *, is_scored: bool) -> list[str]:
        """Returns a phrase for the weights, and the scores if `is_scored`, that are missing or of another step.

        Files without a step count as those of `step`. None is a run without an evaluation, which has no such files.
        """
        files = [("weights", self.has_weights, self.weights_step)]
        files += [("evaluation.json", self.has_scores, self.scores_step)] * is_scored
        return [
            f"{self.workdir}/{name} {f'is of step {found}' if exists else 'does not exist'}"
            for name, exists, found in files
            if (step is not None and not exists) or found not in (None, step)
        ]

    def describe_weights(self) -> str:
        """Returns a sentence on the weights: whether there are any, and of which step."""
        if not self.has_weights:
            return f"There is no {self.weights}: the run has not finished an evaluation, or the folder was removed."
        if self.weights_step is None:
            return f"{self.weights} was written by an earlier version, which did not record the step."
        return f"{self.weights} contains the weights of step {self.weights_step}."

    def describe_way_out(self) -> str:
        """Returns a sentence with the command that writes the newest checkpoint as weights, or "" if nothing is kept.

        It is also "" if these weights are there already. Weights of another step are not replaced.
        """
        if not self.kept or (self.has_weights and self.weights_step == self.kept[-1]):
            return ""
        newest, to = self.kept[-1], "DIR" if self.has_weights else self.weights
        return f"`{self.weights_command(newest, to)}` writes those of step {newest}."

    def weights_command(self, step: int | str, to: Path | str) -> str:
        """Returns the command that writes a kept checkpoint as a weights folder, as the user would type it."""
        name = command_names.typed("weights")
        return f"{name} --workdir {shlex.quote(str(self.workdir))} --step {step} --to {shlex.quote(str(to))}"


def read_run_folder(workdir: str | Path) -> RunFolder:
    """Reads names of folders and the steps in two JSON files; what is damaged counts as a file without a step."""
    workdir = Path(workdir)
    weights, scores = workdir / "weights" / "description.json", workdir / "evaluation.json"
    return RunFolder(
        workdir,
        kept_steps(workdir / "checkpoints"),
        has_weights=weights.is_file(),
        weights_step=_read_step(weights),
        has_scores=scores.is_file(),
        scores_step=_read_step(scores),
    )


def kept_steps(checkpoints: Path) -> tuple[int, ...]:
    """Returns the steps in a folder of checkpoints; unfinished ones have other names. () if there is no folder."""
    if not checkpoints.is_dir():
        return ()
    return tuple(sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal() and path.is_dir()))


def describe_source(path: str | Path) -> str:
    """Returns how to name weights that are used: a weights folder, or the one in a workdir, with its step if known."""
    path = Path(path)
    folder = path if (path / "description.json").is_file() else path / "weights"
    if not (folder / "description.json").is_file():
        return str(path)
    step = _read_step(folder / "description.json")
    return f"{folder}{'' if step is None else f', step {step}'}"


def check_source(path: str | Path) -> str:
    """Returns what differs between the weights that a workdir provides and its scores and checkpoints, or ""."""
    run = read_run_folder(path)
    if (run.workdir / "description.json").is_file() or not run.has_weights:
        return ""
    notes = []
    if run.has_scores and None not in (run.weights_step, run.scores_step) and run.weights_step != run.scores_step:
        notes.append(f"{run.workdir}/evaluation.json has the scores of step {run.scores_step}, not of these weights.")
    if run.kept and run.weights_step != run.kept[-1]:
        notes.append(f"Kept checkpoints: {list_steps(run.kept)}. {run.describe_way_out()}")
    return " ".join(notes)


def list_steps(steps: Sequence[int]) -> str:
    """Returns `step 5`, or `steps 5, 10`."""
    return f"step{'s' * (len(steps) != 1)} {', '.join(map(str, steps)) or 'none'}"


def _read_step(file: Path) -> int | None:
    try:
        content: Any = json.loads(file.read_text())
        step = content.get("step")
    except (OSError, ValueError, RecursionError, AttributeError):
        return None
    return step if isinstance(step, int) and not isinstance(step, bool) else None
