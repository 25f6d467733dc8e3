"""Detects objects in images; writes them in one or several forms and a copy of each image with the detections drawn.

mrcnn predict --weights runs/NAME --output predictions photo.jpg more_photos/ scans.zip
"""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.class_option import find_categories
from mrcnn_jax.cli.prediction_pictures import PictureKind, choose_picture
from mrcnn_jax.cli.progress import show_progress
from mrcnn_jax.cli.weights_option import default_test_config, note_source
from mrcnn_jax.config import TestConfig
from mrcnn_jax.data.tiles import check_tiling
from mrcnn_jax.errors import ConfigError, DataError
from mrcnn_jax.inference.forms.writing import PATHS, Written, check_forms
from mrcnn_jax.inference.image_files import decode_input
from mrcnn_jax.inference.image_sources import find_images
from mrcnn_jax.inference.large_image_files import open_input
from mrcnn_jax.inference.predict_files import FileOptions, predict_files
from mrcnn_jax.inference.prediction_log import WHOLE, Part
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.inference.tiled_predictor import TiledPredictor
from mrcnn_jax.integers import ceil_div
from mrcnn_jax.weights.folder import find_weights, load_weights

MAX_ERRORS_PRINTED = 20
DESCRIPTION = "Detects objects in images; writes them in one or several forms and draws them on copies of the images."


@dataclass(frozen=True)
class Arguments:
    inputs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="INPUT...")] = ()
    """Images, folders, patterns in quotes, archives (.zip, .tar, .tar.gz), @list.txt, or - for paths on stdin."""
    weights: Path = command_line.Required
    """Weights folder, or the workdir of a run."""
    output: Path = command_line.Required
    """Folder for the results. A run that was interrupted continues there."""
    format: str = "coco"
    """Forms of the results, with commas between: jsonl, coco, coco-results, polygons, labelme, yolo, png, csv, geojson,
    parquet. predictions.jsonl is always written."""
    score: float = 0.5
    """Lowest score of detections in pictures and in all forms but jsonl, coco and coco-results, which contain all above
    --test.score-threshold."""
    classes: str = ""
    """Categories to keep, names or ids with commas between; all by default."""
    max_detections: int | None = None
    """Number of detections to keep in each image, the best ones."""
    simplify: float = 1.0
    """Largest distance in pixels between the exact outline of a mask and its polygons; 0 is exact."""
    pictures: PictureKind = "drawn"
    """Pictures to write: drawn copies, masks alone, a crop for each detection, or none (also --no-pictures)."""
    part: str = "1/1"
    """Part of the images for this process, such as 2/8; the last one to finish joins all parts."""
    overwrite: bool = False
    """Predict everything again, instead of continuing or keeping what the output folder contains."""
    tile: int = 0
    """Side in pixels of the tiles in which larger images are predicted; 0 predicts images as a whole."""
    overlap: int = 128
    """Least overlap of two tiles in pixels; objects with a longer side may be joined from fragments."""
    test: TestConfig = field(default_factory=TestConfig)
    """Test settings; the defaults are those of the weights folder."""


def main() -> None:
    argv = ["--pictures=none" if argument == "--no-pictures" else argument for argument in sys.argv[1:]]
    arguments = command_line.parse(Arguments(test=default_test_config()), DESCRIPTION, argv)
    _check(arguments)
    forms = [name for name in arguments.format.split(",") if name]
    check_forms(forms)
    part = read_part(arguments.part)
    found = find_images(arguments.inputs, arguments.output)
    if found.left_out:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in found.left_out.items())
        command_line.note(f"Files of the inputs that are no images or named twice, and are left out: {kinds}.")
    weights = load_weights(arguments.weights)
    category_ids = find_categories(arguments.classes, weights.categories)
    note_source(arguments.weights)
    num_images = len(part.range_of(len(found.files)))
    num_batches = max(1, ceil_div(num_images, arguments.test.batch_size))
    devices = jax.local_devices()[: None if arguments.tile else num_batches]
    predictor = Predictor(weights.variables, weights.model, arguments.test, weights.categories, devices=devices)
    tiled = TiledPredictor(predictor, arguments.tile, arguments.overlap, len(devices)) if arguments.tile else None
    options = FileOptions(
        part=part,
        overwrite=arguments.overwrite,
        forms=forms,
        simplify=arguments.simplify,
        score=arguments.score,
        category_ids=category_ids,
        max_detections=arguments.max_detections,
        num_devices=len(devices),
        settings=describe_settings(arguments),
    )
    draw = choose_picture(arguments.pictures)
    with show_progress("predicted") as progress:
        written = predict_files(
            tiled or predictor,
            found.files,
            arguments.output,
            options=options,
            draw=draw,
            progress=progress,
            decode=open_input if tiled else decode_input,
        )
    if tiled and tiled.num_full_tiles:
        command_line.note(
            f"{tiled.num_full_tiles} tiles have as many detections as a tile may have, so objects may be missing. "
            "Raise --test.max-detections or choose smaller tiles."
        )
    if written is None:
        print(f"Wrote {part.path(arguments.output)}. The last of the {part.count} parts to finish joins them.")
        return
    _report(arguments, forms, written, len(found.files))


def _check(arguments: Arguments) -> None:
    if not arguments.inputs:
        raise ConfigError("Name at least one image, folder, archive or @list. See --help.")
    if arguments.tile:
        check_tiling(arguments.tile, arguments.overlap)
    if not arguments.simplify >= 0:
        raise ConfigError(f"--simplify is a distance in pixels of at least 0, got {arguments.simplify:g}.")
    if arguments.max_detections is not None and arguments.max_detections < 1:
        raise ConfigError(f"--max-detections is at least 1, got {arguments.max_detections}.")


def read_part(text: str) -> Part:
    """Returns the part that a text such as `2/8` names. Raises ConfigError if it names none."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part is I/N with I from 1 to N, such as 2/8, got {text!r}.")
    return Part(int(match[1]), int(match[2]))


def describe_settings(arguments: Arguments) -> dict[str, Any]:
    """Returns, besides what `predict_files` adds, all that the results depend on."""
    description = (find_weights(arguments.weights) / "description.json").read_bytes()
    left_out = ("inputs", "output", "format", "score", "classes", "max_detections", "simplify", "part", "overwrite")
    settings = {name: value for name, value in asdict(arguments).items() if name not in left_out}
    return settings | {"weights": hashlib.sha256(description).hexdigest()}


def _report(arguments: Arguments, forms: Sequence[str], written: Written, num_files: int) -> None:
    for text, count in written.notes.items():
        command_line.note(command_line.one_line(f"{count} x {text} (first: {written.first_noted[text]})"))
    paths = [f"{arguments.output}/{PATHS[name]}" for name in forms]
    paths += [f"{arguments.output}/pictures/"] * (arguments.pictures != "none")
    print(f"Wrote {', '.join(paths)}")
    for error in list(written.errors.values())[:MAX_ERRORS_PRINTED]:
        print(f"failed: {command_line.one_line(error)}", file=sys.stderr)
    if (more := len(written.errors) - MAX_ERRORS_PRINTED) > 0:
        print(f"failed: {more} more, see {WHOLE.path(arguments.output)}", file=sys.stderr)
    if written.errors:
        raise DataError(f"{len(written.errors)} of {num_files} files could not be predicted; the others are done.")
