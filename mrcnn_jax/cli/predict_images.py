"""Detects objects in images; writes predictions.json and a copy of each image with the detections drawn.

mrcnn predict --weights runs/NAME --output predictions photo.jpg more_photos/
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.progress import show_progress
from mrcnn_jax.cli.weights_option import default_test_config, note_source
from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.predict_files import count_other_files, find_images, predict_files
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.visualization.overlays import draw_detections, save_picture
from mrcnn_jax.weights.folder import load_weights


@dataclass(frozen=True)
class Arguments:
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT...")] = ()
    """Images, and folders in which to search for images."""
    weights: Path = command_line.Required
    """Weights folder, or the workdir of a run."""
    output: Path = command_line.Required
    """Folder for predictions.json and pictures/."""
    score: float = 0.5
    """Lowest score of detections that are drawn; predictions.json contains all above --test.score-threshold."""
    pictures: bool = True
    """Draw the detections on copies of the images."""
    test: TestConfig = field(default_factory=TestConfig)
    """Test settings; the defaults are those of the weights folder."""


def main() -> None:
    arguments = command_line.parse(
        Arguments(test=default_test_config()),
        "Detects objects in images; writes predictions.json and a copy of each image with the detections drawn.",
    )
    if not arguments.inputs:
        raise ConfigError("Name at least one image or folder of images. See --help.")
    files = find_images(arguments.inputs, arguments.output)
    if others := count_other_files(arguments.inputs):
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
        command_line.note(f"Files in the folders that are no images, and are left out: {kinds}.")
    weights = load_weights(arguments.weights)
    note_source(arguments.weights)
    predictor = Predictor(weights.variables, weights.model, arguments.test, weights.categories)

    def draw(path: Path, image: np.ndarray, detections: ImageDetections) -> None:
        picture = draw_detections(
            image,
            detections.boxes,
            detections.scores,
            detections.labels,
            detections.masks,
            detections.categories,
            detections.keypoints,
        )
        save_picture(path, picture)

    notes: dict[str, list[Path]] = {}
    with show_progress("predicted") as progress:
        errors = predict_files(
            predictor,
            files,
            arguments.output,
            draw=draw if arguments.pictures else None,
            draw_score=arguments.score,
            progress=progress,
            notes=notes,
        )
    for text, paths in notes.items():
        command_line.note(command_line.one_line(f"{len(paths)} x {text} (first: {paths[0]})"))
    print(
        f"Wrote {arguments.output / 'predictions.json'}"
        + (f" and {arguments.output / 'pictures'}/" * arguments.pictures)
    )
    for error in errors.values():
        print(f"failed: {command_line.one_line(error)}", file=sys.stderr)
    if errors:
        raise DataError(f"{len(errors)} of {len(files)} files could not be predicted; the others are done.")
