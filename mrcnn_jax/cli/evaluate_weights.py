"""Scores a weights folder on a prepared data set: COCO box, mask and keypoint AP, and Cityscapes mask AP.

mrcnn evaluate --weights runs/NAME --data DIR --split val --output metrics.json
"""

from dataclasses import dataclass, field
from pathlib import Path

from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.progress import show_progress
from mrcnn_jax.cli.weights_option import default_test_config, note_source
from mrcnn_jax.config import DistributedConfig, TestConfig
from mrcnn_jax.distributed import is_primary, join_processes
from mrcnn_jax.evaluation.weights_scores import evaluate_weights
from mrcnn_jax.json_files import write_json
from mrcnn_jax.training.weights_loss import evaluate_weights_loss


@dataclass(frozen=True)
class Arguments:
    weights: Path = command_line.Required
    """Weights folder, or the workdir of a run."""
    data: str = command_line.Required
    """Prepared folder, DIR or DIR:SPLIT."""
    split: str = ""
    """Split of the data, if the folder has several."""
    output: Path = Path("metrics.json")
    """JSON file for the scores."""
    results: Path | None = None
    """JSON file for the detections as COCO results, which other tools can score; also for data without annotations."""
    cityscapes: bool = False
    """Also score masks with Cityscapes' metric."""
    loss: bool = False
    """Also compute every loss term, as --train.validation-loss does."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """How the processes of an evaluation on several machines find each other."""
    test: TestConfig = field(default_factory=TestConfig)
    """Test settings; the defaults are those of the weights folder."""


def main() -> None:
    arguments = command_line.parse(
        Arguments(test=default_test_config()),
        "Scores a weights folder on a prepared data set: COCO box, mask and keypoint AP.",
    )
    join_processes(arguments.distributed)
    if is_primary():
        note_source(arguments.weights)
    data = f"{arguments.data}:{arguments.split}" if arguments.split else arguments.data
    with show_progress("evaluated") as progress:
        evaluation = evaluate_weights(
            arguments.weights,
            data,
            test_config=arguments.test,
            cityscapes=arguments.cityscapes,
            progress=progress,
        )
    loss = None
    if arguments.loss:
        with show_progress("loss computed") as progress:
            loss = evaluate_weights_loss(arguments.weights, data, test_config=arguments.test, progress=progress)
    if not is_primary():
        return
    print(evaluation.table)
    if evaluation.note:
        print(evaluation.note)
    if evaluation.metrics["skipped"]:
        print(f"Skipped images: {evaluation.metrics['skipped']}")
    metrics = evaluation.metrics
    if loss is not None:
        print(loss.loss.describe())
        if loss.note:
            print(f"Note: {loss.note}")
        metrics = metrics | {"loss": loss.loss.terms}
    write_json(arguments.output, metrics)
    print(f"Wrote {arguments.output}")
    if arguments.results is not None:
        write_json(arguments.results, evaluation.results, indent=None)
        print(f"Wrote {arguments.results}")
