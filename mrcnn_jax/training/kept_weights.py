"""Writing a kept checkpoint of a run as a weights folder, without training and without changing the checkpoints."""

from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from mrcnn_jax.categories import Category
from mrcnn_jax.config import Config
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.run_folder import RunFolder, list_steps, read_run_folder
from mrcnn_jax.training.averaging import averaged_params
from mrcnn_jax.training.checkpoint_reader import Refused, StepDescription, open_to_read, read_description, read_state
from mrcnn_jax.training.settings import Settings, recorded_categories, recorded_config
from mrcnn_jax.training.training_program import make_training_program
from mrcnn_jax.training.workdir import claim_workdir
from mrcnn_jax.weights.folder import read_stored_categories, save_weights

NAMED_STEPS = ("best", "last")


@dataclass(frozen=True)
class WrittenWeights:
    """What `write_kept_weights` wrote."""

    step: int
    is_averaged: bool
    """Whether these are the averages of `train.ema_decay`."""
    score: float | None
    """Score of this step in the run's own evaluation, of which more is better; None if it was not evaluated."""
    best_by: str
    """What the score is: `train.best_by` of the run."""
    has_replaced: bool
    """Whether another weights folder was there before."""


def write_kept_weights(workdir: str | Path, step: str, to: str | Path) -> WrittenWeights:
    """Writes a kept checkpoint as a weights folder: averaged parameters if the run averages, as evaluations use them.

    Args:
        workdir: folder of the run, which may be training meanwhile.
        step: "best" (highest score of the kept ones that were evaluated), "last", or a number.
        to: weights folder to write; an existing weights folder is replaced.

    Raises:
        ConfigError: `step` is not kept, or `to` exists and is no weights folder.
        DataError: there are no checkpoints, or this one is damaged.
        StorageError: the folder cannot be written.
    """
    run, to = read_run_folder(workdir), Path(to)
    check_destination(to)
    if not run.kept:
        raise DataError(f"{run.workdir}/checkpoints contains no checkpoint. Name the workdir of a run that saved one.")
    with closing(open_to_read(run.workdir / "checkpoints")) as manager:
        number = choose_step(run, manager, step)
        description = _describe(run, manager, number)
        config = recorded_config(description.settings)
        program = make_training_program(config, make_mesh(jax.local_devices()[:1]))
        try:
            state = read_state(manager, description, program.state_shapes)
        except Refused as error:
            raise _damaged(run, number, error) from error
    has_replaced = to.exists()
    # A run that trains writes its own weights here, too.
    own = to.absolute() == run.weights.absolute()
    with claim_workdir(run.workdir) if own else nullcontext():
        save_weights(
            to,
            {**state.variables, "params": averaged_params(state)},
            model_config=config.model,
            test_config=config.test,
            categories=find_categories(run, description.settings, config),
            step=number,
            loss_config=config.loss,
        )
    return WrittenWeights(number, config.train.ema_decay > 0, description.score, config.train.best_by, has_replaced)


def check_destination(to: Path) -> None:
    """Raises ConfigError if `to` exists and is neither empty nor a weights folder, since writing would remove it."""
    if to.is_dir() and (not any(to.iterdir()) or (to / "description.json").is_file()):
        return
    if to.exists():
        raise ConfigError(f"--to {to} exists and is no weights folder. Choose a new folder.")


def choose_step(run: RunFolder, manager: ocp.CheckpointManager, wanted: str) -> int:
    """Returns the number of a kept step. Raises ConfigError with the kept ones if `wanted` is none of them."""
    if wanted == "last":
        return run.kept[-1]
    if wanted == "best":
        scores = {step: _describe(run, manager, step).score for step in run.kept}
        known = {step: score for step, score in scores.items() if score is not None}
        if not known:
            raise ConfigError(
                f"None of the checkpoints in {run.workdir} was evaluated, so none is the best. "
                f"Kept: {list_steps(run.kept)}. Pass --step last, or one of them."
            )
        return max(known, key=known.__getitem__)
    if not wanted.isdecimal():
        raise ConfigError(
            f"--step: expected best, last or the number of a step, got {wanted!r}. Kept: {list_steps(run.kept)}."
        )
    if int(wanted) not in run.kept:
        raise ConfigError(f"{run.workdir} has no checkpoint of step {int(wanted)}. Kept: {list_steps(run.kept)}.")
    return int(wanted)


def find_categories(run: RunFolder, settings: Settings, config: Config) -> tuple[Category, ...]:
    """Returns the categories of a checkpoint.

    Earlier versions did not record them; then they are those of the run's weights or of its training data. Raises
    DataError if neither is there.
    """
    if categories := recorded_categories(settings):
        return categories
    if run.has_weights:
        return read_stored_categories(run.weights)
    try:
        data = open_dataset(config.data.train)
    except DataError as error:
        raise DataError(
            f"The checkpoints in {run.workdir} were saved by an earlier version, without the names of the categories, "
            f"and neither {run.weights} nor the training data has them: {error}"
        ) from error
    if data.fingerprint != settings["dataset.fingerprint"]:
        raise DataError(
            f"The checkpoints in {run.workdir} were saved by an earlier version, without the names of the categories, "
            f"and {config.data.train} is not the data that the run was trained on. Prepare that data again."
        )
    return data.categories


def _describe(run: RunFolder, manager: ocp.CheckpointManager, step: int) -> StepDescription:
    try:
        return read_description(manager, step)
    except Refused as error:
        raise _damaged(run, step, error) from error


def _damaged(run: RunFolder, step: int, reason: Refused) -> DataError:
    others = [other for other in run.kept if other != step]
    return DataError(
        f"Checkpoint step {step} in {run.workdir} is damaged ({reason}). Other kept checkpoints: {list_steps(others)}."
    )
