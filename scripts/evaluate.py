"""Scores a weights folder on a prepared data set: COCO box, mask and keypoint AP, and Cityscapes' AP of masks.

python scripts/evaluate.py --weights runs/NAME --data DIR --split val --output metrics.json
"""

import _cli  # isort: skip

import json
from dataclasses import dataclass, field
from pathlib import Path

import jax
from _weights import default_test_config, show_progress

from mrcnn_jax.config import DistributedConfig, TestConfig
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.transforms import flip_map
from mrcnn_jax.errors import ConfigError, StorageError
from mrcnn_jax.evaluation.evaluate import check_categories, evaluate
from mrcnn_jax.inference.prediction_program import make_predict_fn
from mrcnn_jax.mesh import make_mesh
from mrcnn_jax.multihost import is_primary, join_processes, leave
from mrcnn_jax.weights.folder import load_weights


@dataclass(frozen=True)
class Arguments:
    weights: Path = _cli.Required
    """Weights folder, or the workdir of a run."""
    data: str = _cli.Required
    """Folder that prepare_data.py made, or DIR:SPLIT."""
    split: str = ""
    """Split of the data, where the folder has several."""
    output: Path = Path("metrics.json")
    """File for the scores, JSON."""
    results: Path | None = None
    """File for the detections as COCO results, JSON; other tools can score them."""
    cityscapes: bool = False
    """Also score masks as Cityscapes does."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """How the processes of an evaluation on several machines find each other."""
    test: TestConfig = field(default_factory=TestConfig)
    """Test settings; the defaults are those of the weights folder."""


def main() -> None:
    arguments = _cli.parse(
        Arguments(test=default_test_config()),
        "Scores a weights folder on a prepared data set: COCO box, mask and keypoint AP.",
    )
    join_processes(arguments.distributed)
    weights = load_weights(arguments.weights)
    if arguments.cityscapes and not weights.model.masks:
        raise ConfigError("--cityscapes scores masks, and this model has no mask head.")
    dataset = open_dataset(f"{arguments.data}:{arguments.split}" if arguments.split else arguments.data)
    check_categories(weights.categories, dataset.categories)
    devices = jax.local_devices()
    mirrored = flip_map(arguments.test.keypoint_flip, weights.categories, weights.model.num_keypoints)
    predict_fn = make_predict_fn(weights.variables, weights.model, arguments.test, make_mesh(devices), mirrored)
    with show_progress("evaluated") as progress:
        evaluation = evaluate(
            dataset,
            predict_fn,
            test=arguments.test,
            num_devices=len(devices),
            progress=progress,
            categories=weights.categories,
            cityscapes=arguments.cityscapes,
        )
    if not is_primary():
        return
    print(evaluation.table)
    if evaluation.metrics["skipped"]:
        print(f"Skipped pictures: {evaluation.metrics['skipped']}")
    write_json(arguments.output, evaluation.metrics)
    if arguments.results is not None:
        write_json(arguments.results, evaluation.results)


def write_json(path: Path, content: object) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2 if isinstance(content, dict) else None) + "\n")
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror}. Choose another file.") from error
    print(f"Wrote {path}")


if __name__ == "__main__":
    _cli.run(main, leave=leave)
