"""A training run from start to end: data, resume, steps, evaluations, checkpoints, and what is written where.

workdir/config.json        settings of the run          workdir/evaluation.json   newest scores
workdir/checkpoints/       what a resume needs          workdir/pictures/         predictions beside ground truth
workdir/metrics.jsonl      one object a logged step     workdir/weights/          newest evaluated weights
workdir/tensorboard/       the same as events
"""

import dataclasses
import functools
from collections import deque
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from mrcnn_jax.config import Config
from mrcnn_jax.data.dataset import Dataset, open_dataset
from mrcnn_jax.data.pipeline import TrainingBatches, training_batches
from mrcnn_jax.detection.predict import predict
from mrcnn_jax.errors import ConfigError, DataError, Preempted
from mrcnn_jax.evaluation.augmented import without_augmentation
from mrcnn_jax.evaluation.evaluate import Evaluation, evaluate
from mrcnn_jax.models.mask_rcnn import MaskRCNN
from mrcnn_jax.reporting.comparisons import draw_comparison
from mrcnn_jax.reporting.overlays import save_picture
from mrcnn_jax.structures import Batch, Detections
from mrcnn_jax.training.averaging import averaged_params
from mrcnn_jax.training.checkpoint import Checkpoints, Evaluated
from mrcnn_jax.training.logging import MetricsLog, ProgressLine
from mrcnn_jax.training.monitor import StepMonitor
from mrcnn_jax.training.optimizer import learning_rate, make_optimizer
from mrcnn_jax.training.preemption import StopRequest
from mrcnn_jax.training.settings import complete_config, run_settings
from mrcnn_jax.training.sharding import DATA_AXIS, batch_sharding, make_mesh, replicated
from mrcnn_jax.training.state import TrainState, create_train_state, make_train_state
from mrcnn_jax.training.step import make_train_step
from mrcnn_jax.training.workdir import claim_workdir, write_json
from mrcnn_jax.weights.folder import save_weights
from mrcnn_jax.weights.initial import initialise

PREFETCH_DEPTH = 2
"""Batches that are copied to the device ahead of their step."""


def train(config: Config, workdir: str | Path) -> None:
    """Trains to `config.train.num_steps`; continues from the newest valid checkpoint in `workdir` if there is one.

    Raises ConfigError, DataError, NumericalError or StorageError for what a user can act on, and Preempted when a
    signal stopped the run after its state was saved.
    """
    workdir = Path(workdir)
    with claim_workdir(workdir), StopRequest() as stop:
        train_data, val_data = open_data(config)
        mesh = make_mesh()
        val_categories = None if val_data is None else val_data.categories
        config = complete_config(config, train_data.categories, val_categories, num_devices=mesh.size)
        with closing(Checkpoints(workdir / "checkpoints", keep=config.train.keep_checkpoints)) as checkpoints:
            Run(config, workdir, train_data, val_data, mesh, checkpoints, stop).train()


class _EvaluationStopped(Exception):
    """A stop request came in while the network was being evaluated."""


@dataclasses.dataclass
class Run:
    """One run: what stays the same from its first step to its last, and the functions that use it."""

    config: Config
    workdir: Path
    train_data: Dataset
    val_data: Dataset | None
    mesh: jax.sharding.Mesh
    checkpoints: Checkpoints
    stop: StopRequest
    unread_images: int = 0
    dropped_objects: int = 0

    def __post_init__(self) -> None:
        self.model = MaskRCNN(self.config.model)
        self.optimizer = make_optimizer(self.config.train, self.config.model)
        data = self.train_data
        self.settings = run_settings(self.config, fingerprint=data.fingerprint, num_records=len(data))
        step = make_train_step(self.mesh, model=self.model, optimizer=self.optimizer, targets=self.config.targets)
        whole, split = replicated(self.mesh), batch_sharding(self.mesh)
        self.train_step = jax.jit(
            step, in_shardings=(whole, split, whole), out_shardings=(whole, whole), donate_argnums=0
        )
        self.predict = jax.jit(
            jax.shard_map(
                functools.partial(predict, model=self.model, config=self.config.test),
                mesh=self.mesh,
                in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS), PartitionSpec(DATA_AXIS)),
                out_specs=PartitionSpec(DATA_AXIS),
                check_vma=False,
            )
        )
        self.line = ProgressLine(self.config.train.num_steps)

    def train(self) -> None:
        """Steps, evaluates and saves until the last step or until told to stop."""
        config = self.config.train
        state, step, evaluated = self.start_or_resume()
        saved_step = step
        write_json(self.workdir / "config.json", dataclasses.asdict(self.config))
        key = jax.random.key(config.seed)
        batches = self.prefetch_batches(start_step=step)
        with closing(MetricsLog(self.workdir, start_step=step)) as log, self.line as line:
            monitor = StepMonitor(
                log,
                line,
                num_steps=config.num_steps,
                log_every=config.log_every,
                batch_size=config.batch_size,
                num_records=len(self.train_data),
                learning_rate=lambda step: float(learning_rate(config, step)),
            )
            compiled = set()
            while True:
                if self.is_evaluation_due(step, evaluated) and not self.stop.received:
                    monitor.flush()
                    with monitor.watch.paused():
                        evaluated = self.evaluate(state, step)
                is_last = step >= config.num_steps or self.stop.received is not None
                is_due = step % config.checkpoint_every == 0 or (evaluated is not None and evaluated.step == step)
                if (is_last or is_due) and step != saved_step:
                    monitor.flush()
                    with monitor.watch.paused():
                        self.checkpoints.save(step, state, self.settings, evaluated)
                    saved_step = step
                if is_last:
                    break
                image_ids, batch = next(batches)
                canvas = batch.images.shape
                with monitor.watch.paused() if canvas not in compiled else nullcontext():
                    state, metrics = self.train_step(state, batch, key)
                compiled.add(canvas)
                step += 1
                monitor.add(step, metrics, image_ids)
        self.checkpoints.wait()
        self.finish(step, is_complete=step >= config.num_steps and not self.is_evaluation_due(step, evaluated))

    def start_or_resume(self) -> tuple[TrainState, int, Evaluated | None]:
        """The state on the mesh, its step, and the last evaluation."""
        create = functools.partial(create_train_state, self.model, self.optimizer, self.config.train.seed)
        restored = self.checkpoints.restore(jax.eval_shape(create), self.settings)
        if restored is None:
            state, step, evaluated = create(), 0, None
            if self.config.train.init_from:
                classes = [category.name for category in self.train_data.categories]
                source = self.config.train.init_from
                variables, report = initialise(state.variables, source, self.config.model, classes)
                self.line.say(report.describe(source))
                state = make_train_state(variables, self.optimizer)
        else:
            state, step, evaluated = restored.state, restored.step, restored.evaluated
            self.line.say(f"Continuing from step {step} in {self.checkpoints.directory}.")
        return jax.device_put(state, replicated(self.mesh)), step, evaluated

    def prefetch_batches(self, start_step: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Image ids on the host and the batch on the mesh, for each step from `start_step` on."""
        batches = training_batches(
            self.train_data,
            self.config.data,
            batch_size=self.config.train.batch_size,
            seed=self.config.train.seed,
            start_step=start_step,
            num_steps=self.config.train.num_steps,
        )
        ahead: deque[tuple[np.ndarray, Batch]] = deque()
        for num_given, batch in enumerate(batches, start=1):
            self.check_left_out(batches, num_images=num_given * self.config.train.batch_size)
            ahead.append((np.asarray(batch.image_id), jax.device_put(batch, batch_sharding(self.mesh))))
            if len(ahead) > PREFETCH_DEPTH:
                yield ahead.popleft()
        yield from ahead

    def check_left_out(self, batches: TrainingBatches, num_images: int) -> None:
        """DataError when more than data.max_skip_fraction of `num_images`, or of one epoch, could not be read."""
        self.unread_images, self.dropped_objects = batches.invalid_images, batches.dropped_objects
        fraction, total = self.config.data.max_skip_fraction, max(num_images, len(self.train_data))
        if self.unread_images > fraction * total:
            raise DataError(
                f"{self.config.data.train}: {self.unread_images} of {total} pictures could not be read, more than "
                f"{fraction:.1%} (--data.max-skip-fraction). Prepare the data again."
            )

    def is_evaluation_due(self, step: int, evaluated: Evaluated | None) -> bool:
        """Whether the weights of this step are to be evaluated and were not yet."""
        every = self.config.train.eval_every
        due = step >= self.config.train.num_steps or (every > 0 and step > 0 and step % every == 0)
        return due and (evaluated is None or evaluated.step != step)

    def evaluate(self, state: TrainState, step: int) -> Evaluated | None:
        """Scores the weights on data.val and writes evaluation.json, pictures/ and weights/; None if told to stop."""
        variables = {**state.variables, "params": averaged_params(state)}

        def predict_batch(images: Any, image_hw: Any) -> Detections:
            if self.stop.received:
                raise _EvaluationStopped
            return self.predict(variables, images, image_hw)

        metrics: dict[str, Any] = {}
        score = None
        if self.val_data is not None:
            self.line.say(f"Evaluating step {step} on {len(self.val_data)} pictures of {self.val_data.name}.")
            try:
                evaluation = evaluate(
                    self.val_data,
                    predict_batch,
                    test=without_augmentation(self.config.test),
                    num_devices=self.mesh.size,
                    progress=self.line.show_evaluation,
                    max_skip_fraction=self.config.data.max_skip_fraction,
                )
            except _EvaluationStopped:
                return None
            self.line.say(evaluation.table)
            metrics = {"step": step} | evaluation.metrics
            score = evaluation.metrics["segm" if self.config.model.masks else "bbox"][
                "AP"
            ]  # None without any ground truth
            write_json(self.workdir / "evaluation.json", metrics)
            (self.workdir / "evaluation.txt").write_text(evaluation.table + "\n")
            self.draw_pictures(self.val_data, evaluation)
        config = self.config
        save_weights(
            self.workdir / "weights",
            variables,
            model=config.model,
            test=config.test,
            categories=self.train_data.categories,
        )
        return Evaluated(step, metrics, score)

    def draw_pictures(self, dataset: Dataset, evaluation: Evaluation) -> None:
        """Draws the first pictures of the validation data with predictions beside ground truth."""
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

    def finish(self, step: int, *, is_complete: bool) -> None:
        """Says what was written, what was left out and what to do next; raises Preempted if the run was stopped."""
        if not is_complete:
            raise Preempted(
                f"Stopped by {self.stop.received} at step {step} of {self.config.train.num_steps}; its state is saved "
                f"in {self.workdir}. Run the same command again to continue."
            )
        if self.unread_images or self.dropped_objects:
            self.line.say(
                f"Left out: {self.unread_images} pictures that could not be read, "
                f"{self.dropped_objects} objects beyond --data.max-objects {self.config.data.max_objects}."
            )
        self.line.say(f"Trained to step {step}. Weights: {self.workdir}/weights, curves: {self.workdir}/metrics.jsonl")
        if self.val_data is not None:
            self.line.say(f"Scores: {self.workdir}/evaluation.json, pictures: {self.workdir}/pictures/")
        self.line.say(
            f"Next: python scripts/predict.py --weights {self.workdir} --output {self.workdir}/predictions PICTURES"
        )


def open_data(config: Config) -> tuple[Dataset, Dataset | None]:
    """Training and validation data. ConfigError if no training data is named."""
    if not config.data.train:
        raise ConfigError("No training data: name a folder that prepare_data.py made with --data.train DIR.")
    return open_dataset(config.data.train), open_dataset(config.data.val) if config.data.val else None
