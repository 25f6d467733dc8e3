"""A training run from start to end: data, resuming, steps, evaluations, checkpoints and output files.

workdir/config.json     settings of the run    workdir/metrics.jsonl   one object per logged step
workdir/checkpoints/    states to resume from  workdir/tensorboard/    the same metrics as events
workdir/programs/       compiled programs, for a faster restart

workdir/best/           weights of the best step

`validation` writes further files. If there are several processes, process 0 writes.
"""

import dataclasses
import functools
import json
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import jax
import numpy as np

from mrcnn_jax.config import Config
from mrcnn_jax.data.data_findings import check_budget
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.data.pipeline import training_batches
from mrcnn_jax.distributed import gather_bytes, is_primary, shared_errors, wait_for_all
from mrcnn_jax.errors import NumericalError, Preempted, StorageError
from mrcnn_jax.json_files import write_json
from mrcnn_jax.mesh import make_mesh, place, place_batch, replicated
from mrcnn_jax.run_folder import BEST_WEIGHTS, describe_source
from mrcnn_jax.structures import Batch
from mrcnn_jax.training import outcome
from mrcnn_jax.training.advice import Advice
from mrcnn_jax.training.checkpoint import Checkpoints
from mrcnn_jax.training.checkpoint_reader import EvaluationRecord
from mrcnn_jax.training.data_checks import check_data, open_data
from mrcnn_jax.training.early_stopping import NO_SCORES, ScoreHistory
from mrcnn_jax.training.metrics_log import VALIDATION_LOSS, MetricsLog, ProgressLine, read_losses
from mrcnn_jax.training.monitor import StepMonitor
from mrcnn_jax.training.optimizer import learning_rate
from mrcnn_jax.training.preemption import StopRequest
from mrcnn_jax.training.program_cache import load_or_compile, programs_folder
from mrcnn_jax.training.settings import Settings, check_agreement, complete_config, run_settings
from mrcnn_jax.training.state import TrainState, make_train_state
from mrcnn_jax.training.training_program import make_training_program
from mrcnn_jax.training.validation import Validation
from mrcnn_jax.training.workdir import claim_workdir
from mrcnn_jax.weights.init_from import initialise

PREFETCH_DEPTH = 2
"""Number of batches that are copied to the devices ahead of their step."""


def train(config: Config, workdir: str | Path) -> None:
    """Trains up to `config.train.num_steps`, from the newest valid checkpoint in `workdir` if there is one.

    Raises ConfigError, DataError, NumericalError or StorageError for errors that a user can correct, and Preempted if a
    signal stopped the run, once its state has been saved.

    Processes that have joined (`mrcnn_jax.distributed`) train together on all their devices. Each of them has to call
    this function, with a `workdir` that they share.
    """
    workdir = Path(workdir)
    with ExitStack() as stack:
        with shared_errors():
            if is_primary():
                stack.enter_context(claim_workdir(workdir))
            stop = stack.enter_context(StopRequest(functools.partial(outcome.describe_saved, workdir)))
            train_data, val_data = open_data(config)
            mesh = make_mesh()
            config = complete_config(config, train_data.categories, num_devices=mesh.size)
            config, notes = check_data(config, train_data, val_data)
            settings = run_settings(
                config,
                fingerprint=train_data.fingerprint,
                num_records=len(train_data),
                categories=train_data.categories,
            )
        check_agreement([json.loads(each) for each in gather_bytes(json.dumps(settings).encode())])
        checkpoints = Checkpoints(workdir / "checkpoints", keep=config.train.keep_checkpoints)
        stack.enter_context(closing(checkpoints))
        run = TrainingRun(config, settings, workdir, train_data, val_data, mesh, checkpoints, stop)
        for note in notes:
            run.line.say(note)
        run.train()


@dataclasses.dataclass
class TrainingRun:
    """One run: the objects that stay the same from its first step to its last, and the functions that use them."""

    config: Config
    settings: Settings
    workdir: Path
    train_data: Dataset
    val_data: Dataset | None
    mesh: jax.sharding.Mesh
    checkpoints: Checkpoints
    stop: StopRequest
    dropped_objects: int = 0
    history: ScoreHistory = NO_SCORES
    """Scores of the evaluations so far."""

    def __post_init__(self) -> None:
        self.program = make_training_program(self.config, self.mesh)
        self.gather = jax.jit(lambda state: state, out_shardings=replicated(self.mesh))
        self.line = ProgressLine(self.config.train.num_steps, is_silent=not is_primary())
        self.advice = Advice(self.config, self.line.say)
        self.validation = Validation(
            self.config, self.workdir, self.val_data, self.train_data.categories, self.mesh, self.stop, self.line
        )

    def train(self) -> None:
        """Trains, evaluates and saves until the last step, the end of the patience, or a stop request."""
        config = self.config.train
        state, step, evaluated = self.start_or_resume()
        start_step = saved_step = step
        key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=replicated(self.mesh))()
        batches = self.prefetch_batches(start_step=step)
        with ExitStack() as stack:
            log = None
            with shared_errors():
                if is_primary():
                    write_json(self.workdir / "config.json", dataclasses.asdict(self.config))
                    is_evaluated = not self.validation.is_due(step, evaluated)
                    log = MetricsLog(self.workdir, start_step=step, is_evaluated=is_evaluated)
                    stack.enter_context(closing(log))
            line = stack.enter_context(self.line)
            monitor = StepMonitor(
                log,
                line,
                num_steps=config.num_steps,
                log_every=config.log_every,
                batch_size=config.batch_size,
                num_records=len(self.train_data),
                learning_rate=lambda step: float(learning_rate(config, step)),
                advice=self.advice,
                start_step=step,
            )
            stack.enter_context(self.explained_failures(monitor))
            programs: dict[tuple[int, ...], jax.stages.Compiled] = {}
            while True:
                if self.validation.is_due(step, evaluated) and not self.stop.poll():
                    monitor.flush()
                    with monitor.watch.paused():
                        evaluated = self.validation.evaluate(self.whole(state), step)
                        if evaluated is not None:
                            self.keep_scores(evaluated, log, is_saved=step == saved_step)
                is_finished = step >= config.num_steps or self.history.is_exhausted(config.patience)
                is_last = is_finished or self.stop.poll() is not None
                is_due = step % config.checkpoint_every == 0 or (evaluated is not None and evaluated.step == step)
                if (is_last or is_due) and step != saved_step:
                    monitor.flush()
                    with monitor.watch.paused():
                        self.checkpoints.save(step, self.whole(state), self.settings, evaluated, self.history)
                    saved_step = step
                    monitor.mark_saved(step)
                if is_last:
                    break
                with monitor.watch.waiting():
                    image_ids, batch = next(batches)
                canvas = batch.images.shape
                if canvas not in programs:
                    with monitor.watch.paused():
                        programs[canvas] = self.load_or_compile(state, batch, key)
                        wait_for_all("step compiled")
                state, metrics = programs[canvas](state, batch, key)
                step += 1
                monitor.add(step, metrics, image_ids)
                self.check_left_out(monitor.num_left_out, step)
        self.checkpoints.wait()
        self.check_left_out(monitor.num_left_out, step)
        due = self.validation.is_due(step, evaluated)
        if not is_finished or due:
            raise Preempted(
                outcome.describe_stop(
                    self.workdir, self.stop.received, step, num_steps=config.num_steps, is_evaluation_due=due
                )
            )
        self.finish(step, monitor.num_left_out, start_step=start_step)

    def keep_scores(self, evaluated: EvaluationRecord, log: MetricsLog | None, *, is_saved: bool) -> None:
        """Adds an evaluation to the history, its validation loss to the log, and both to its step if that is saved."""
        self.history = self.history.add(evaluated.step, evaluated.score)
        if log is not None and (terms := evaluated.metrics.get("loss")):
            log.write(evaluated.step, {f"{VALIDATION_LOSS}/{name}": value for name, value in terms.items()})
        if is_saved:
            self.checkpoints.record_evaluation(evaluated, self.history)

    @contextmanager
    def explained_failures(self, monitor: StepMonitor) -> Iterator[None]:
        """Adds to a NumericalError what is kept and what to do."""
        try:
            yield
        except NumericalError as error:
            with suppress(StorageError):  # then the step is not kept
                self.checkpoints.wait()
            losses = read_losses(self.workdir) | monitor.losses
            error.args = (f"{error} {outcome.explain_failure(self.workdir, losses)}",)
            raise

    def load_or_compile(self, state: TrainState, batch: Batch, key: jax.Array) -> jax.stages.Compiled:
        """Returns the compiled training step for batches of this shape."""
        file = programs_folder(self.workdir) / f"step-{'x'.join(map(str, batch.images.shape[:3]))}.bin"
        devices = list(self.mesh.devices.flat)
        return load_or_compile(file, self.program.step, (state, batch, key), devices, self.config)

    def start_or_resume(self) -> tuple[TrainState, int, EvaluationRecord | None]:
        """Returns the state on the mesh, its step, and the last evaluation."""
        restored = self.checkpoints.restore(self.program.state_shapes, self.settings)
        if restored is None:
            state, step, evaluated = self.program.create_state(), 0, None
            if self.config.train.init_from:
                classes = [category.name for category in self.train_data.categories]
                source = self.config.train.init_from
                variables, report = initialise(state.variables, source, self.config.model, classes)
                self.line.say(report.describe(describe_source(source)))
                state = make_train_state(variables, self.program.optimizer)
        else:
            state, step, evaluated = restored.state, restored.step, restored.evaluated
            self.line.say(f"Continuing from step {step} in {self.checkpoints.directory}.")
            self.history = restored.history
            evaluated = self.validation.check_files(step, evaluated)
        return place(state, self.program.state_shardings), step, evaluated

    def whole(self, state: TrainState) -> TrainState:
        """Returns the state with every leaf whole on every device."""
        return self.gather(state) if self.config.train.shard_optimizer else state

    def prefetch_batches(self, start_step: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yields the image ids on the host and the batch on the mesh for each step from `start_step` on."""
        batches = training_batches(
            self.train_data,
            self.config.data,
            batch_size=self.config.train.batch_size,
            seed=self.config.train.seed,
            start_step=start_step,
            num_steps=self.config.train.num_steps,
            keypoint_flip=self.config.model.keypoint_flip,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        ahead: deque[tuple[np.ndarray, Batch]] = deque()
        for batch in batches:
            self.dropped_objects = batches.dropped_objects
            self.advice.check_bitmaps(batch.ground_truth)
            ahead.append((np.asarray(batch.image_id), place_batch(batch, self.mesh)))
            if len(ahead) > PREFETCH_DEPTH:
                yield ahead.popleft()
        yield from ahead

    def check_left_out(self, num_left_out: int, step: int) -> None:
        """Raises DataError if more than data.max_skip_fraction of the images so far, or of an epoch, are unreadable."""
        total = max(step * self.config.train.batch_size, len(self.train_data))
        check_budget(num_left_out, total, self.config.data.max_skip_fraction, name=self.config.data.train)

    def finish(self, step: int, num_left_out: int, *, start_step: int) -> None:
        """Prints what was written and left out, and the next command."""
        num_dropped = sum(int(number) for number in gather_bytes(str(self.dropped_objects).encode()))
        if num_left_out or num_dropped:
            self.line.say(
                f"Left out: {num_left_out} images that could not be read, "
                f"{num_dropped} objects beyond --data.max-objects {self.config.data.max_objects}."
            )
        best = self.write_best()
        for line in outcome.describe_end(
            self.workdir,
            step,
            start_step=start_step,
            train_config=self.config.train,
            best=best,
            history=self.history,
            is_scored=self.val_data is not None,
        ):
            self.line.say(line)

    def write_best(self) -> Path | None:
        """Writes the weights of the best step if there is a choice; None if not, or if its checkpoint is not kept."""
        best = self.history.best
        if best is None or len(self.history.entries) == 1 or best.step not in self.checkpoints.steps():
            return None
        state = self.checkpoints.read(best.step, self.program.state_shapes)
        folder = self.workdir / BEST_WEIGHTS
        with shared_errors():
            if is_primary():
                self.validation.write_weights(folder, state, best.step)
        return folder
