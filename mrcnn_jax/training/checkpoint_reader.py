"""Reading one step of a run's checkpoints: its description and its state, which are verified before they are used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from mrcnn_jax.json_files import digest_json, replace_file
from mrcnn_jax.named_leaves import (
    PyTree,
    describe_differences,
    find_changed,
    find_not_finite,
    named_leaves,
    replace_leaves,
    silence_abandoned_reads,
)
from mrcnn_jax.training.early_stopping import ScoreHistory
from mrcnn_jax.training.settings import Settings

DESCRIPTION_FILE = "metadata"
"""File in the folder `description` of a step."""


class Refused(Exception):
    """Raised for a step that fails verification, with the reason."""


@dataclass(frozen=True)
class EvaluationRecord:
    """The last evaluation before a checkpoint was saved."""

    step: int
    metrics: Mapping[str, Any]
    score: float | None
    """Score by which the best checkpoint is selected, higher is better; None if there was nothing to evaluate on."""


@dataclass(frozen=True)
class StepDescription:
    """What a checkpoint records besides the arrays of the state."""

    step: int
    settings: Settings
    """Settings of the run that saved it."""
    evaluated: EvaluationRecord | None
    leaves: Mapping[str, Any]
    """Record of each leaf of the state (`mrcnn_jax.named_leaves`)."""
    history: ScoreHistory
    """Scores of all evaluations up to this step."""

    @property
    def score(self) -> float | None:
        """The score of this step itself; None if it was not evaluated, or on nothing."""
        return self.evaluated.score if self.evaluated is not None and self.evaluated.step == self.step else None


def make_handlers() -> dict[str, ocp.CheckpointHandler]:
    """Returns Orbax's handlers of the two items in a step."""
    return {"state": ocp.StandardCheckpointHandler(), "description": ocp.JsonCheckpointHandler(DESCRIPTION_FILE)}


def open_to_read(directory: Path) -> ocp.CheckpointManager:
    """Returns a manager of an existing folder that changes nothing in it, even while a run trains there."""
    options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, cleanup_tmp_directories=False, lightweight_initialize=True
    )
    return ocp.CheckpointManager(directory.absolute(), options=options, item_handlers=make_handlers())


def read_description(manager: ocp.CheckpointManager, step: int) -> StepDescription:
    """Returns the description of a step. Raises Refused if it cannot be read or differs from its checksum."""
    items = ocp.args.Composite(description=ocp.args.JsonRestore())
    content = _read(manager, step, items)["description"]
    if not isinstance(content, dict) or content.pop("sha256", None) != digest_json(content):
        raise Refused("its description does not match its checksum")
    if content["step"] != step:
        raise Refused(f"its description is that of step {content['step']}")
    evaluated = None if content["evaluated"] is None else EvaluationRecord(**content["evaluated"])
    if "history" in content:
        history = ScoreHistory.from_json(content["history"])
    else:  # of an earlier version
        history = ScoreHistory() if evaluated is None else ScoreHistory().add(evaluated.step, evaluated.score)
    return StepDescription(step, content["settings"], evaluated, content["leaves"], history)


def describe_step(
    step: int,
    settings: Settings,
    evaluated: EvaluationRecord | None,
    leaves: Mapping[str, Any],
    history: ScoreHistory,
) -> dict[str, Any]:
    """Returns the description of a step as JSON values, with its checksum: the inverse of `read_description`."""
    content: dict[str, Any] = {
        "step": step,
        "settings": dict(settings),
        "evaluated": None if evaluated is None else vars(evaluated),
        "leaves": leaves,
        "history": [list(entry) for entry in history.entries],
    }
    content = json.loads(json.dumps(content))  # tuples become lists, as after reading back
    return content | {"sha256": digest_json(content)}


def replace_description(directory: Path, step: int, content: Mapping[str, Any]) -> None:
    """Replaces the description of a complete step, at once. Raises OSError."""
    replace_file(directory / str(step) / "description" / DESCRIPTION_FILE, json.dumps(content).encode())


def read_state(manager: ocp.CheckpointManager, description: StepDescription, target: PyTree) -> PyTree:
    """Returns the state of a step with NumPy leaves.

    `target` defines structure, shapes and dtypes (arrays or ShapeDtypeStructs). Raises Refused if the state has others,
    cannot be read, differs from its checksums, or is not finite.
    """
    expected = named_leaves(target)
    if problems := describe_differences(expected, description.leaves):
        raise Refused("; ".join(problems))
    # With NumPy leaves in the target, Orbax returns NumPy arrays whatever devices the state was saved from.
    template = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in expected.items()}
    items = ocp.args.Composite(state=ocp.args.StandardRestore(template))
    leaves = _read(manager, description.step, items)["state"]
    if changed := find_changed(leaves, description.leaves):
        raise Refused(f"{', '.join(changed)} changed on disk: the checksum differs")
    if bad := find_not_finite(leaves):
        raise Refused(f"{bad[0]} and {len(bad) - 1} other leaves contain NaN or infinity")
    return replace_leaves(target, leaves)


def _read(manager: ocp.CheckpointManager, step: int, items: ocp.args.Composite) -> Any:
    try:
        return manager.restore(step, args=items)
    except Exception as error:  # damaged files cause almost any exception
        silence_abandoned_reads()
        raise Refused(f"it cannot be read: {type(error).__name__}") from error
