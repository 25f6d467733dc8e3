"""Detects objects in videos; writes a drawn copy, the detections of each frame, and tracks on request.

mrcnn video --weights runs/NAME --output videos street.mp4 --track
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.class_option import find_categories
from mrcnn_jax.cli.progress import show_progress
from mrcnn_jax.cli.weights_option import default_test_config, note_source
from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.inference.predict_video import output_name, predict_video
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.inference.tracking import TrackSettings
from mrcnn_jax.inference.video_input import import_av, open_video
from mrcnn_jax.inference.video_results import PredictedFrame
from mrcnn_jax.visualization.overlays import draw_detections
from mrcnn_jax.weights.folder import load_weights


@dataclass(frozen=True)
class Arguments:
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT...")] = ()
    """Videos, and folders whose images are the frames of a video."""
    weights: Path = command_line.Required
    """Weights folder, or the workdir of a run."""
    output: Path = command_line.Required
    """Folder for NAME.mp4, NAME.jsonl and NAME.json of each video."""
    score: float = 0.5
    """Lowest score of detections that are written and drawn, and that start tracks."""
    classes: str = ""
    """Categories to keep, names or ids with commas between; all by default."""
    track: bool = False
    """Give the same object the same number in all frames, and draw the detections in tracks only."""
    track_memory: int = 30
    """Frames without a detection that a track outlives; an object that is hidden longer gets a new number."""
    track_low_score: float = 0.1
    """Lowest score of detections that continue a track."""
    draw: bool = True
    """Write a copy of the video with the detections drawn."""
    rate: float = 25.0
    """Frames a second of videos that are folders of images."""
    test: TestConfig = field(default_factory=TestConfig)
    """Test settings; the defaults are those of the weights folder."""


def main() -> None:
    arguments = command_line.parse(
        Arguments(test=default_test_config()),
        "Detects objects in videos; writes a drawn copy, the detections of each frame, and tracks on request.",
    )
    _check(arguments)
    weights = load_weights(arguments.weights)
    category_ids = find_categories(arguments.classes, weights.categories)
    note_source(arguments.weights)
    predictor = Predictor(weights.variables, weights.model, arguments.test, weights.categories)
    settings = TrackSettings(arguments.score, min(arguments.track_low_score, arguments.score), arguments.track_memory)
    failed = 0
    for path in arguments.inputs:
        try:
            with (
                open_video(path, arguments.rate, arguments.test.depth) as video,
                show_progress(f"{command_line.one_line(path.name)}: predicted") as progress,
            ):
                summary = predict_video(
                    predictor,
                    video,
                    arguments.output,
                    draw=draw_frame if arguments.draw else None,
                    score=arguments.score,
                    category_ids=category_ids,
                    track=settings if arguments.track else None,
                    progress=progress,
                )
        except DataError as error:
            print(f"failed: {command_line.one_line(str(error))}", file=sys.stderr)
            failed += 1
            continue
        for text in summary["notes"]:
            command_line.note(command_line.one_line(f"{path}: {text}"))
        name = output_name(path)
        kinds = ", ".join([".mp4"] * arguments.draw + [".jsonl", ".json"])
        tracks = f", {len(summary['tracks'])} tracks" * arguments.track if arguments.track else ""
        print(f"Wrote {arguments.output / name} ({kinds}): {summary['num_frames']} frames{tracks}")
    if failed:
        raise DataError(f"{failed} of {len(arguments.inputs)} videos could not be predicted; the others are done.")


def draw_frame(frame: PredictedFrame) -> np.ndarray:
    """Returns a picture of a frame with its detections, uint8 RGB of the same size, in the colours of the tracks."""
    found = frame.found
    return draw_detections(
        frame.frame.image,
        found.boxes,
        found.scores,
        found.labels,
        frame.crops.__getitem__ if found.has_masks else None,
        found.categories,
        found.keypoints,
        tracks=frame.numbers,
        keep_size=True,
    )


def _check(arguments: Arguments) -> None:
    """Raises ConfigError before anything is loaded or compiled."""
    if not arguments.inputs:
        raise ConfigError("Name at least one video. See --help.")
    for option, value in (("--score", arguments.score), ("--track-low-score", arguments.track_low_score)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{option}: expected a number from 0 to 1, got {value}.")
    if arguments.track_memory < 0:
        raise ConfigError(f"--track-memory: expected at least 0 frames, got {arguments.track_memory}.")
    if not 0 < arguments.rate <= 1000:
        raise ConfigError(f"--rate: expected more than 0 and at most 1000 frames a second, got {arguments.rate}.")
    names: dict[str, Path] = {}
    for path in arguments.inputs:
        other = names.setdefault(output_name(path).casefold(), path)
        if other is not path:
            raise ConfigError(f"{other} and {path} would have the same outputs. Use an --output for each.")
        if path.resolve().parent == arguments.output.resolve() and path.suffix in (".mp4", ".json", ".jsonl"):
            raise ConfigError(f"The output would replace {path}. Choose another folder as --output.")
    import_av()
