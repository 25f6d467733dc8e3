"""The checkpoints of one run: asynchronous Orbax steps, which are verified before they are used.

Each step contains two items: `state`, the named leaves of the training state, and `description`, JSON with the step,
the settings of the run, the last evaluation, a SHA-256 of every leaf and one of the description itself. Orbax commits
both at once. The position in the data is the step, since the order of the data is a pure function of (seed, step).

Leaves are saved whole, so that any number of devices and processes can continue a run. Several processes share the
folder: all of them have to make the same calls, and process 0 writes.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PreservationContext

from mrcnn_jax.distributed import gather_bytes, is_primary, shared_errors, wait_for_all
from mrcnn_jax.errors import DataError, NumericalError, StorageError
from mrcnn_jax.named_leaves import PyTree, find_not_finite, host_copies, record_leaves
from mrcnn_jax.training.checkpoint_reader import (
    EvaluationRecord,
    Refused,
    describe_step,
    make_handlers,
    read_description,
    read_state,
    replace_description,
)
from mrcnn_jax.training.early_stopping import NO_SCORES, ScoreHistory
from mrcnn_jax.training.settings import Settings, check_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """The checkpoint from which a run continues."""

    step: int
    state: PyTree
    """The training state with NumPy leaves."""
    evaluated: EvaluationRecord | None
    settings: Settings
    """Settings of the run that saved the checkpoint."""
    history: ScoreHistory
    """Scores of all evaluations up to this step."""


class _LatestAndBest:
    """Orbax preservation policy that keeps the latest `keep` steps and the one with the best score.

    The scores are read from the verified descriptions instead of Orbax's own metrics files. Orbax parses all of those
    when it opens the folder, so that one damaged file would stop the run, and it keeps every step that has none.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.scores: dict[int, float] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: PreservationContext) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = max((step for step in steps if step in self.scores), key=self.scores.__getitem__, default=None)
        return [step in steps[-self.keep :] or step == best for step in steps]


class Checkpoints:
    """Saves and restores the state of one run in `directory`."""

    def __init__(self, directory: Path, *, keep: int) -> None:
        """Opens or creates the folder; StorageError if that fails."""
        self.directory = directory.absolute()
        self._policy = _LatestAndBest(keep)
        self._state_bytes = 0
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            lightweight_initialize=True,  # see _LatestAndBest
        )
        # A killed save leaves an unfinished step. Orbax starts its own cleanup here, but ends it with the next save.
        self._remove_unfinished_steps()
        wait_for_all("checkpoints opened")
        with self._storage_errors("opened"):
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=make_handlers())

    def save(
        self,
        step: int,
        state: PyTree,
        settings: Settings,
        evaluated: EvaluationRecord | None,
        history: ScoreHistory = NO_SCORES,
    ) -> None:
        """Starts saving `state`, which is on disk once `wait` has returned. Every process has to hold all leaves whole.

        Raises NumericalError if a leaf is not finite, and StorageError if this save or the previous one failed.
        """
        leaves = host_copies(state)
        if bad := find_not_finite(leaves):
            raise NumericalError(
                f"Step {step} was not saved: {bad[0]} and {len(bad) - 1} other leaves contain NaN or infinity. Lower "
                "--train.learning-rate."
            )
        self._state_bytes = sum(leaf.nbytes for leaf in leaves.values())
        description = describe_step(step, settings, evaluated, record_leaves(leaves), history)
        self._remember_score(step, evaluated)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves),
            description=ocp.args.JsonSave(description),
        )
        with self._storage_errors("saved"):
            self._manager.save(step, args=items, force=True)

    def record_evaluation(self, evaluated: EvaluationRecord, history: ScoreHistory) -> None:
        """Adds the evaluation of a step that was saved without it, because the run was stopped meanwhile.

        The description is replaced at once, so that an interruption leaves the old one or the new one.
        """
        self.wait()
        with shared_errors(), self._storage_errors("saved"):
            try:
                saved = read_description(self._manager, evaluated.step)  # by all processes: Orbax waits for each
            except Refused as error:
                raise StorageError(f"Checkpoint step {evaluated.step} changed since it was read: {error}.") from error
            if is_primary():
                content = describe_step(saved.step, saved.settings, evaluated, saved.leaves, history)
                replace_description(self.directory, saved.step, content)
        self._remember_score(evaluated.step, evaluated)

    def wait(self) -> None:
        """Waits until everything passed to `save` is on disk; StorageError if it could not be written."""
        with self._storage_errors("saved"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits like `wait`, then ends Orbax's threads."""
        with self._storage_errors("saved"):
            self._manager.close()

    def restore(self, target: PyTree, settings: Settings) -> Restored | None:
        """Returns the newest step that passes verification, or None if the folder contains no step.

        `target` defines structure, shapes and dtypes (arrays or ShapeDtypeStructs). Once an older step has passed,
        those that failed are moved aside with a warning. Raises DataError if all steps fail, and ConfigError if
        `settings` differ in a setting that a run must not change.
        """
        with shared_errors():
            restored, refused = self._find_valid(target, settings)
        seen = set(gather_bytes(f"{restored and restored.step} {sorted(refused)}".encode()))
        if len(seen) > 1:
            raise StorageError(
                f"The processes see different checkpoints in {self.directory}. --workdir has to be a folder that all "
                "of them share."
            )
        for step, reason in refused.items():
            self._move_aside(step, reason)
        if refused:
            wait_for_all("damaged checkpoints moved")
            self._manager.reload()
        return restored

    def read(self, step: int, target: PyTree) -> PyTree:
        """Returns the verified state of a saved step with NumPy leaves; `target` is as in `restore`.

        Raises DataError if the step is damaged.
        """
        with shared_errors():
            try:
                return read_state(self._manager, read_description(self._manager, step), target)
            except Refused as error:
                raise DataError(f"Checkpoint step {step} in {self.directory} is damaged ({error}).") from error

    def steps(self) -> list[int]:
        """Returns the saved steps, valid or not."""
        return sorted(self._manager.all_steps())

    def _find_valid(self, target: PyTree, settings: Settings) -> tuple[Restored | None, dict[int, str]]:
        """Returns the newest valid step, and the reason for each step that was refused."""
        refused: dict[int, str] = {}
        restored = None
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                description = read_description(self._manager, step)
                if restored is None:
                    check_settings(description.settings, settings, f"{self.directory}/{step}")
                    state = read_state(self._manager, description, target)
                    restored = Restored(step, state, description.evaluated, description.settings, description.history)
                self._remember_score(step, description.evaluated)
            except Refused as error:
                refused[step] = str(error)
        if refused and restored is None:
            reasons = "; ".join(f"step {step}: {reason}" for step, reason in refused.items())
            raise DataError(f"No valid checkpoint in {self.directory} ({reasons}). Remove the folder to start over.")
        return restored, refused

    def _remember_score(self, step: int, evaluated: EvaluationRecord | None) -> None:
        if evaluated is not None and evaluated.step == step and evaluated.score is not None:
            self._policy.scores[step] = evaluated.score

    def _move_aside(self, step: int, reason: str) -> None:
        if not is_primary():
            return
        destination = self.directory.with_name(f"{self.directory.name}_refused") / str(step)
        logger.warning("Checkpoint step %d is damaged (%s) and was moved to %s.", step, reason, destination)
        with self._storage_errors("moved"):
            destination.parent.mkdir(exist_ok=True)
            shutil.rmtree(destination, ignore_errors=True)
            shutil.move(self.directory / str(step), destination)

    def _remove_unfinished_steps(self) -> None:
        if not is_primary():
            return
        for unfinished in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    @contextmanager
    def _storage_errors(self, action: str) -> Iterator[None]:
        """Converts Orbax's errors on a full or broken disk to StorageError and removes the unfinished step."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # Orbax raises ValueError for a full disk
            if isinstance(error, jax.errors.JaxRuntimeError):  # another process was lost
                raise
            self._remove_unfinished_steps()
            text = str(error).strip() or type(error).__name__
            reason = "no space left on the device" if "No space left" in text else text.splitlines()[0][:200]
            needed = f"a checkpoint takes up to {self._state_bytes / 2**20:.0f} MiB, " if self._state_bytes else ""
            raise StorageError(
                f"Checkpoints could not be {action} in {self.directory}: {reason}; {needed}"
                f"{_free_bytes(self.directory) / 2**20:.0f} MiB are free. Free some space or choose another --workdir."
            ) from error


def _free_bytes(directory: Path) -> int:
    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    return shutil.disk_usage(existing).free
