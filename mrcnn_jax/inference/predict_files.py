"""Predicts any number of images and appends the results as they come; an interrupted run continues.

output/predictions.jsonl            one line for each image, in order; from it the other forms are made
output/predictions-2-of-8.jsonl     the same for one part of a run that several processes share
output/predictions.json, ...        the forms that are asked for, when all images are done
output/pictures/                    pictures, if asked for
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.data.image_windows import ImageWindows, reduce_image
from mrcnn_jax.inference.forms.records import FormSettings
from mrcnn_jax.inference.forms.writing import Written, check_forms, write_forms
from mrcnn_jax.inference.image_files import decode_input
from mrcnn_jax.inference.image_sources import InputFile, picture_names
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.prediction_log import (
    WHOLE,
    Part,
    RunHeader,
    alone,
    are_complete,
    check_parts,
    join_parts,
    open_log,
    read_records,
)
from mrcnn_jax.inference.prediction_stream import DecodeFn, ImagePredictor, PredictedFile, predict_stream

DrawFn = Callable[[Path, np.ndarray, ImageDetections], Path]
"""Writes a picture of an image [H, W, 3] and its detections and returns its path, which begins with the given one.

The given path has no suffix, and its folder may not exist. The function is called in several threads."""

MAX_DRAWN_SIDE = 4096
"""Longer side of the drawn copy of an image that is read window by window."""


@dataclass(frozen=True)
class FileOptions:
    """What is predicted and written; see `mrcnn predict --help`."""

    part: Part = WHOLE
    overwrite: bool = False
    forms: Sequence[str] = ("coco",)
    simplify: float = 1.0
    """Largest distance between the exact outline of a mask and polygons, in pixels."""
    score: float = 0.5
    """Lowest score of detections in pictures, and in all forms but jsonl, coco and coco-results."""
    category_ids: frozenset[int] | None = None
    """Categories of the detections that are kept; None keeps all."""
    max_detections: int | None = None
    """Number of detections of an image that are kept, the best ones; None keeps all."""
    num_devices: int = 1
    """Devices of the predictor, each of which computes a share of a batch."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that the results depend on, such as the weights; a run continues only with the same ones."""


def predict_files(
    predictor: ImagePredictor,
    files: Sequence[InputFile],
    output: Path,
    *,
    options: FileOptions = FileOptions(),
    draw: DrawFn | None = None,
    progress: Callable[[int, int], None] | None = None,
    decode: DecodeFn = decode_input,
) -> Written | None:
    """Predicts files, appends their results to output/predictions.jsonl, and writes the forms when all are done.

    Files that this file contains from an earlier call are not predicted again. If a file cannot be read, its error is
    recorded and the others are predicted. `draw` is called with the detections that have at least the score of the
    options. Files are read with `decode`. A part of a run writes the forms if the other parts are finished.

    Returns the number of images, the errors and the notes of the whole run; None if other parts are not finished.

    Raises ConfigError if the output is of other settings, StorageError if something cannot be written, and
    NumericalError, without writing the forms, if the network computes NaN or infinity for a file.
    """
    check_forms(options.forms)
    part = options.part
    header = RunHeader(
        _settings(files, options, with_pictures=draw is not None), tuple(predictor.categories), len(files)
    )
    if not options.overwrite:
        check_parts(output, header, part)
    stems = list(picture_names(files))
    finish = partial(_make_line, output=output, stems=stems, options=options, draw=draw)
    positions = part.range_of(len(files))
    path = part.path(output)
    with open_log(path, header, part, overwrite=options.overwrite) as (log, done):
        if progress is not None:
            progress(done, len(positions))
        numbered = ((position + 1, files[position]) for position in positions[done:])
        with closing(
            predict_stream(predictor, numbered, finish, num_devices=options.num_devices, decode=decode)
        ) as lines:
            for count, line in enumerate(lines, start=done + 1):
                log.write(line)
                log.flush()
                if progress is not None:
                    progress(count, len(positions))
    if part.count > 1 and not are_complete(output, header, part.count):
        return None
    with alone(Part(1, part.count).path(output)):
        if part.count > 1:
            join_parts(output, header, part.count)
        image_paths = [None if file.archive is not None else file.path for file in files]
        form_settings = FormSettings(output, header.categories, options.simplify, options.score, image_paths)
        return write_forms(options.forms, read_records(WHOLE.path(output)), form_settings)


def _settings(files: Sequence[InputFile], options: FileOptions, *, with_pictures: bool) -> dict[str, Any]:
    """Returns what the lines of predictions.jsonl and the pictures depend on."""
    inputs = hashlib.sha256()
    for file in files:
        inputs.update(f"{file.name}\0{file.stored_size()}\0".encode(errors="surrogateescape"))
    settings = dict(options.settings) | {
        "inputs": inputs.hexdigest(),
        "classes": None if options.category_ids is None else sorted(options.category_ids),
        "max_detections": options.max_detections,
    }
    return settings | ({"score of pictures": options.score} if with_pictures else {})


def _make_line(
    predicted: PredictedFile, output: Path, stems: Sequence[str], options: FileOptions, draw: DrawFn | None
) -> bytes:
    """Draws the picture of a file and returns its line of predictions.jsonl."""
    stem = stems[predicted.number - 1]
    line: dict[str, Any] = {"id": predicted.number, "file_name": predicted.file.name}
    if predicted.detections is None or predicted.pixels is None:
        return _encode(line | {"error": predicted.error})
    found = keep_detections(predicted.detections, options.category_ids, options.max_detections)
    line |= {"height": found.image_hw[0], "width": found.image_hw[1], "stem": stem}
    if draw is not None:
        confident = found.select(found.scores >= options.score)
        path = draw(output / "pictures" / stem, *_fit_for_drawing(predicted.pixels, confident))
        line["picture"] = path.relative_to(output).as_posix()
    if predicted.notes:
        line["notes"] = predicted.notes
    line["detections"] = [
        _row(result, name) for result, name in zip(found.coco_results(0), found.category_names, strict=True)
    ]
    return _encode(line)


def _row(result: dict[str, Any], category_name: str) -> dict[str, Any]:
    """Returns a detection from a COCO result, without the image's id."""
    own = {name: value for name, value in result.items() if name != "image_id"}
    return own | {"category_name": category_name, "bbox": [round(side, 3) for side in result["bbox"]]}


def _encode(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def keep_detections(
    found: ImageDetections, category_ids: frozenset[int] | None, max_detections: int | None
) -> ImageDetections:
    """Returns the best `max_detections` detections of some categories; None keeps all."""
    if category_ids is not None:
        found = found.select(np.isin(found.labels, sorted(category_ids)))
    return found if max_detections is None else found.select(np.arange(min(max_detections, len(found))))


def _fit_for_drawing(image: np.ndarray | ImageWindows, found: ImageDetections) -> tuple[np.ndarray, ImageDetections]:
    """Returns the image and the detections to draw, scaled down if the image is read window by window."""
    if not isinstance(image, ImageWindows):
        return image, found
    reduced = reduce_image(image, MAX_DRAWN_SIDE)
    return reduced, found.resized((reduced.shape[0], reduced.shape[1]))
