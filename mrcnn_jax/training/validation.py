"""Evaluations during a run: scores, pictures and weights of the newest state.

workdir/evaluation.json   newest scores                      workdir/weights/   newest evaluated weights
workdir/pictures/         predictions beside ground truth    Scores and weights contain their step.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mrcnn_jax.categories import Category
from mrcnn_jax.config import Config
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.distributed import gather_bytes, is_primary, shared_errors
from mrcnn_jax.errors import DataError, NumericalError
from mrcnn_jax.evaluation.category_matching import match_categories
from mrcnn_jax.evaluation.dataset_loss import DatasetLoss, LossInputs, compute_dataset_loss
from mrcnn_jax.evaluation.evaluate import Evaluation, evaluate
from mrcnn_jax.inference.augmentation import without_augmentation
from mrcnn_jax.inference.prediction_program import make_prediction_program
from mrcnn_jax.json_files import write_json
from mrcnn_jax.mesh import local_copies, local_mesh
from mrcnn_jax.run_folder import read_run_folder
from mrcnn_jax.training.averaging import averaged_params
from mrcnn_jax.training.checkpoint_reader import EvaluationRecord
from mrcnn_jax.training.metrics_log import ProgressLine
from mrcnn_jax.training.preemption import StopRequest
from mrcnn_jax.training.state import TrainState
from mrcnn_jax.training.training_program import make_loss_program
from mrcnn_jax.visualization.comparisons import draw_comparison
from mrcnn_jax.visualization.overlays import save_picture
from mrcnn_jax.weights.folder import save_weights


class _EvaluationStopped(Exception):
    """Raised if a stop is requested while the network is evaluated."""


@dataclass
class Validation:
    """Scores the network on data.val, if there is any, and writes scores, pictures and weights."""

    config: Config
    workdir: Path
    data: Dataset | None
    categories: tuple[Category, ...]
    mesh: Mesh
    stop: StopRequest
    line: ProgressLine

    def __post_init__(self) -> None:
        self.own_mesh = local_mesh(self.mesh)
        self.test = without_augmentation(self.config.test)
        self.predict = make_prediction_program(self.config.model, self.test, self.own_mesh)
        self.loss_program = make_loss_program(self.config.model, self.config.loss, self.own_mesh)
        # Label k of the model is a category of the training data, which the validation data may give another id.
        self.labels = None if self.data is None else match_categories(self.categories, self.data.categories).categories

    def is_due(self, step: int, evaluated: EvaluationRecord | None) -> bool:
        """Returns whether the weights of this step have to be evaluated and have not been yet."""
        config = self.config.train
        due = step >= config.num_steps or (config.eval_every > 0 and step > 0 and step % config.eval_every == 0)
        return due and (evaluated is None or evaluated.step != step)

    def find_stale(self, step: int | None) -> list[str]:
        """Returns a phrase for each file of the evaluation at this step that is missing or of another step.

        All processes return the same, that is, what process 0 finds.
        """
        stale = read_run_folder(self.workdir).find_stale(step, is_scored=self.data is not None)
        return json.loads(gather_bytes(json.dumps(stale).encode())[0])

    def check_files(self, step: int, evaluated: EvaluationRecord | None) -> EvaluationRecord | None:
        """Returns the last evaluation of a resumed run; None if its files are gone or of another step.

        Without a record, an evaluation of this step that is due is done again, and writes the files again.
        """
        stale = self.find_stale(None if evaluated is None else evaluated.step)
        if not stale:
            return evaluated
        checkpoint = f"checkpoint step {step}"
        last = f"{checkpoint} records no evaluation"
        if evaluated is not None:
            last = f"the last evaluation in {checkpoint} is of step {evaluated.step}"
        when = f"Step {step} is evaluated now." if self.is_due(step, None) else "The next one replaces this."
        self.line.say(f"{' and '.join(stale)}, but {last}. {when}")
        return None

    def evaluate(self, state: TrainState, step: int) -> EvaluationRecord | None:
        """Scores a state that is replicated on all devices and writes its weights; None if stopped meanwhile."""
        variables = local_copies({**state.variables, "params": averaged_params(state)}, self.mesh)
        metrics: dict[str, Any] = {}
        score = None
        if self.data is not None:
            self.line.say(f"Evaluating step {step} on {len(self.data)} images of {self.data.name}.")
            try:
                evaluation = evaluate(
                    self.data,
                    functools.partial(self.predict, variables),
                    test_config=self.test,
                    num_devices=self.own_mesh.size,
                    progress=self.line.show_evaluation,
                    max_skip_fraction=self.config.data.max_skip_fraction,
                    before_batch=self.check_stop,
                    categories=self.labels,
                )
                loss = self.compute_loss(variables) if self.config.train.validation_loss else None
            except _EvaluationStopped:
                return None
            except NumericalError as error:
                raise NumericalError(f"Evaluation of step {step}: {error}") from error
            self.line.say(evaluation.table)
            metrics = {"step": step} | evaluation.metrics
            if loss is not None:
                self.line.say(loss.describe())
                metrics["loss"] = loss.terms
            score = choose_score(metrics, self.config.train.best_by)
        with shared_errors():
            if is_primary():
                if self.data is not None:
                    write_json(self.workdir / "evaluation.json", metrics)
                    (self.workdir / "evaluation.txt").write_text(evaluation.table + "\n")
                    self.draw_pictures(self.data, evaluation)
                self.write_weights(self.workdir / "weights", state, step)
        return EvaluationRecord(step, metrics, score)

    def write_weights(self, folder: Path, state: TrainState, step: int) -> None:
        """Writes a state, whose leaves are whole, as a weights folder, averaged if the run averages."""
        save_weights(
            folder,
            {**state.variables, "params": averaged_params(state)},
            model_config=self.config.model,
            test_config=self.config.test,
            categories=self.categories,
            step=step,
            loss_config=self.config.loss,
        )

    def compute_loss(self, variables: Mapping[str, Any]) -> DatasetLoss:
        """Returns the loss of these variables on the validation data."""
        assert self.data is not None and self.labels is not None
        return compute_dataset_loss(
            self.data,
            functools.partial(self.loss_program, variables),
            LossInputs(self.config.model, self.test, self.config.loss, self.labels),
            num_devices=self.own_mesh.size,
            max_skip_fraction=self.config.data.max_skip_fraction,
            progress=self.line.show_evaluation,
            before_batch=self.check_stop,
        )

    def check_stop(self) -> None:
        """Ends the current evaluation if a stop has been requested."""
        if self.stop.poll():
            raise _EvaluationStopped

    def draw_pictures(self, dataset: Dataset, evaluation: Evaluation) -> None:
        """Draws the first images of the validation data with predictions beside ground truth."""
        annotations = dataset.coco_dict()["annotations"]
        for index in range(min(self.config.train.num_pictures, len(dataset))):
            try:
                record = dataset[index]
            except DataError:  # counted and reported by the evaluation
                continue
            objects = [item for item in annotations if item["image_id"] == record.image_id]
            predictions = [item for item in evaluation.results if item["image_id"] == record.image_id]
            picture = draw_comparison(record.image, objects, predictions, dataset.categories)
            save_picture(self.workdir / "pictures" / f"{record.image_id}.png", picture)


def choose_score(metrics: Mapping[str, Any], best_by: str = "auto") -> float | None:
    """Returns the score that `train.best_by` names, of which more is better; None without any ground truth.

    "auto" is the AP of masks or, if the model or the data has none, of boxes.
    """
    if best_by == "loss":
        return -metrics["loss"]["total"] if "loss" in metrics else None
    kinds = {"auto": ("segm", "bbox"), "mask_ap": ("segm",), "box_ap": ("bbox",), "keypoint_ap": ("keypoints",)}
    scores = [metrics[kind]["AP"] for kind in kinds[best_by] if kind in metrics]
    return next((score for score in scores if score is not None), None)
