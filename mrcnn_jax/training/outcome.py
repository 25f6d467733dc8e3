"""What a run reports when it ends: at its last step, by a signal, or by NaN. Files are read before they are named."""

import math
from collections.abc import Mapping
from pathlib import Path

from mrcnn_jax import command_names
from mrcnn_jax.config import TrainConfig
from mrcnn_jax.run_folder import RunFolder, kept_steps, list_steps, read_run_folder
from mrcnn_jax.training.early_stopping import NO_SCORES, ScoreHistory, describe_score

EXPLODED_LOSS = 1e4
"""Loss from which a network cannot recover: its terms are means, and those of a new network add up to about ten."""


def describe_end(
    workdir: Path,
    step: int,
    *,
    start_step: int,
    train_config: TrainConfig,
    is_scored: bool,
    history: ScoreHistory = NO_SCORES,
    best: Path | None = None,
) -> list[str]:
    """Returns the last lines of a run that has reached its last step, or the end of its patience.

    `is_scored` if there is validation data; `best` is the folder with the weights of the best step, if it was written.
    """
    run, num_steps = read_run_folder(workdir), train_config.num_steps
    lines = []
    if start_step > num_steps:
        lines.append(
            f"Nothing was trained: the newest checkpoint is of step {step}, beyond --train.num-steps {num_steps}. "
            f"Kept: {list_steps(run.kept)}. To go back, remove the later folders in {workdir}/checkpoints and run the "
            f"same command again, or write a kept step with `{run.weights_command('N', 'DIR')}`."
        )
    elif start_step == num_steps:
        lines.append("Nothing was trained: the newest checkpoint is of the last step.")
    elif step < num_steps and history.best is not None:
        lines.append(
            f"Stopped early at step {step} of {num_steps}{' before' if start_step == step else ''}: the last "
            f"{history.num_worse} evaluations were not better than that of step {history.best.step}. To continue, "
            "run the same command with a larger --train.patience, or 0 to train to the end."
        )
    if stale := run.find_stale(step, is_scored=is_scored):
        lines.append(
            f"Trained to step {step}, but {' and '.join(stale)}. {run.describe_way_out()}".strip()
            + f" Curves: {workdir}/metrics.jsonl"
        )
        return lines
    recorded = f"{run.weights} (step {step})" if run.weights_step is not None else f"{run.weights} (step not recorded)"
    lines.append(f"Trained to step {step}. Weights: {recorded}, curves: {workdir}/metrics.jsonl")
    if is_scored:
        pictures = f", pictures: {workdir}/pictures/" if (workdir / "pictures").is_dir() else ""
        lines.append(f"Scores: {workdir}/evaluation.json{pictures}")
    if best is not None and history.best is not None:
        lines.append(
            f"Best: step {history.best.step}, {describe_score(history.best.score, train_config.best_by)} "
            f"(the last: {describe_score(history.entries[-1].score, train_config.best_by)}). Weights: {best}"
        )
    weights, output = best or workdir, f"{workdir}/predictions"
    lines.append(f"Next: {command_names.typed('predict')} --weights {weights} --output {output} IMAGES")
    return lines


def describe_stop(workdir: Path, signal: str | None, step: int, *, num_steps: int, is_evaluation_due: bool) -> str:
    """Returns the message of a run that a signal stopped at `step`: what is saved, which weights there are."""
    run = read_run_folder(workdir)
    where = f"at step {step} of {num_steps}" if step > 0 else f"before the first of {num_steps} steps"
    unfinished = ", and its evaluation was not finished" if is_evaluation_due else ""
    if step in run.kept:
        saved = f"the state is saved in {workdir}/checkpoints/{step}"
    elif run.kept:
        saved = f"this state is not saved, the newest checkpoint is of step {run.kept[-1]}"
    else:
        saved = f"nothing is saved in {workdir}"
    again = "continue" if run.kept else "start"
    facts = f"{run.describe_weights()} {run.describe_way_out()}".strip()
    return f"Stopped by {signal} {where}; {saved}{unfinished}. {facts} Run the same command again to {again}."


def describe_saved(workdir: Path) -> str:
    """Returns which state a run would continue from if it ended now."""
    kept = kept_steps(workdir / "checkpoints")
    return f"the newest checkpoint is of step {kept[-1]}" if kept else "nothing is saved"


def explain_failure(workdir: Path, losses: Mapping[int, float]) -> str:
    """Returns what to do after NaN: whether the newest checkpoint can be continued, and else from which step.

    `losses` maps steps to total losses, infinity or NaN if metrics were not finite. The loss of step k + 1 is computed
    with the parameters of checkpoint k.
    """
    run = read_run_folder(workdir)
    if not run.kept:
        return (
            f"No checkpoint is saved in {workdir}, so the same command with a lower --train.learning-rate starts over. "
            + run.describe_weights()
        )
    newest = run.kept[-1]
    good = [step for step in run.kept if not _is_lost(step, losses)]
    if good and good[-1] == newest:
        advice = (
            f"The newest checkpoint, step {newest}, is not lost: its parameters are finite, and "
            f"{_describe_loss(newest, losses)}. The same command with a lower --train.learning-rate continues from it."
        )
    else:
        advice = (
            f"The newest checkpoint, step {newest}, is already lost: {_describe_loss(newest, losses)}. A lower "
            f"--train.learning-rate cannot save it. {_describe_way_back(run, good, losses)}"
        )
    is_lost = run.weights_step is not None and _is_lost(run.weights_step, losses)
    return f"{advice} {run.describe_weights()}{' They are lost, too.' * is_lost}"


def _describe_way_back(run: RunFolder, good: list[int], losses: Mapping[int, float]) -> str:
    if not good:
        return (
            f"No earlier checkpoint is better (kept: {list_steps(run.kept)}): start again in a new --workdir with a "
            "lower one."
        )
    step = good[-1]
    later = " and ".join(f"{run.workdir}/checkpoints/{each}" for each in run.kept if each > step)
    return (
        f"Remove {later} to continue from step {step} with a lower one ({_describe_loss(step, losses)}); "
        f"`{run.weights_command(step, 'DIR')}` writes the weights of step {step}."
    )


def _is_lost(step: int, losses: Mapping[int, float]) -> bool:
    found = _find_loss(step, losses)
    return found is not None and not found[1] <= EXPLODED_LOSS


def _describe_loss(step: int, losses: Mapping[int, float]) -> str:
    found = _find_loss(step, losses)
    if found is None:
        return "no loss of it was logged"
    at, loss = found
    value = f"the loss of step {at} was {loss:.4g}" if math.isfinite(loss) else f"metrics of step {at} were not finite"
    return f"with its parameters, {value}" if at > step else value


def _find_loss(step: int, losses: Mapping[int, float]) -> tuple[int, float] | None:
    """Returns the step whose loss shows best the state of checkpoint `step`, and that loss."""
    at = step + 1 if step + 1 in losses else max((each for each in losses if each <= step), default=None)
    return None if at is None else (at, losses[at])
