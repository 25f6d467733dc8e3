"""Predicts files and folders of images; writes predictions.json and, on request, pictures with drawn detections."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.data.images import MAX_PIXELS, SUFFIXES
from mrcnn_jax.data.transforms import resize_image
from mrcnn_jax.errors import DataError
from mrcnn_jax.inference.image_files import read_image
from mrcnn_jax.inference.postprocessing import ImageDetections
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.json_files import write_json

DrawFn = Callable[[Path, np.ndarray, ImageDetections], None]
"""Writes a copy of an image with its detections drawn to a path that ends in .jpg and whose folder may not exist."""

MAX_MASK_BYTES = 10**9
"""Images whose full-size masks would take more bytes than this are drawn at a smaller size."""

BATCHES_HELD = 4
"""Number of batches of images to read before prediction, so that images with the same canvas form a batch."""


@dataclass(frozen=True)
class InputFile:
    """An image to predict."""

    path: Path
    name: str
    """Path relative to the named folder, with / between folders, or the file's own name."""


def find_images(inputs: Sequence[str | Path], output: Path) -> list[InputFile]:
    """Returns the named files, and all image files in and below the named folders, sorted within each folder.

    A named file may have any suffix. In folders, hidden files and pictures under `output` from earlier calls are
    skipped. Raises DataError if an input does not exist or there is no image.
    """
    found: dict[Path, InputFile] = {}
    for given in map(Path, inputs):
        if given.is_dir():
            paths = sorted(path for path in given.rglob("[!.]*") if path.suffix.lower() in SUFFIXES and path.is_file())
            paths = [path for path in paths if not path.resolve().is_relative_to(output.resolve())]
            files = [InputFile(path, path.relative_to(given).as_posix()) for path in paths]
        elif given.exists():
            files = [InputFile(given, given.name)]
        else:
            raise DataError(f"Input {given} does not exist.")
        for file in files:
            found.setdefault(file.path.resolve(), file)
    if not found:
        raise DataError(f"No images in {', '.join(map(str, inputs))}. Supported: {', '.join(sorted(SUFFIXES))}.")
    return list(found.values())


def count_other_files(inputs: Sequence[str | Path]) -> dict[str, int]:
    """Returns how many files in and below the named folders are not read, by suffix, the most frequent first."""
    others: Counter[str] = Counter()
    for folder in filter(Path.is_dir, map(Path, inputs)):
        suffixes = (path.suffix.lower() for path in folder.rglob("[!.]*") if path.is_file())
        others.update(suffix or "no suffix" for suffix in suffixes if suffix not in SUFFIXES)
    return dict(others.most_common())


def predict_files(
    predictor: Predictor,
    files: Sequence[InputFile],
    output: Path,
    *,
    draw: DrawFn | None = None,
    draw_score: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
    notes: dict[str, list[Path]] | None = None,
) -> dict[str, str]:
    """Writes output/predictions.json and, with `draw`, a picture of each file under output/pictures.

    Detections with a score of at least `draw_score` are drawn; predictions.json contains all of them. If a file cannot
    be read, its error is recorded and the others are predicted. predictions.json contains "images" (id, file name,
    size, drawn picture), "predictions" (COCO results with file_name and category_name) and "errors" (file name, error).
    What was decided to read the images, such as the range of 16-bit values, is added to `notes`, with their paths.

    Returns the errors by file, {} if there are none. Raises StorageError if something cannot be written, and
    NumericalError, without writing predictions.json, if the network computes NaN or infinity for a file.
    """
    ids = {file: number for number, file in enumerate(files, start=1)}
    targets = _unique_targets(files)
    names = {category.id: category.name for category in predictor.categories}
    images: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    errors: dict[InputFile, str] = {}
    read = functools.partial(read_image, depth=predictor.test_config.depth, notes=notes)
    for group in _read_groups(files, predictor.test_config.batch_size * BATCHES_HELD, read, errors):
        found_in_group = predictor([image for _, image in group], names=[str(file.path) for file, _ in group])
        for (file, image), found in zip(group, found_in_group, strict=True):
            entry = {"id": ids[file], "file_name": file.name, "height": image.shape[0], "width": image.shape[1]}
            if draw is not None:
                draw(output / "pictures" / targets[file], *_fit_for_drawing(image, found, draw_score))
                entry["picture"] = f"pictures/{targets[file]}"
            images.append(entry)
            for result in found.coco_results(ids[file]):
                named = {"file_name": file.name, "category_name": names[result["category_id"]]}
                predictions.append(result | named | {"bbox": [round(side, 3) for side in result["bbox"]]})
        if progress is not None:
            progress(len(images) + len(errors), len(files))
    content = {
        "images": images,
        "predictions": predictions,
        "errors": [{"file_name": file.name, "error": error} for file, error in errors.items()],
    }
    write_json(output / "predictions.json", content, indent=None)
    return {str(file.path): error for file, error in errors.items()}


def _read_groups(
    files: Sequence[InputFile],
    max_images: int,
    read: Callable[[Path], np.ndarray],
    errors: dict[InputFile, str],
) -> Iterator[list[tuple[InputFile, np.ndarray]]]:
    """Yields decoded images in groups of bounded number and size; adds files that cannot be read to `errors`."""
    group: list[tuple[InputFile, np.ndarray]] = []
    for file in files:
        try:
            group.append((file, read(file.path)))
        except DataError as error:
            errors[file] = str(error)
        pixels = sum(image.shape[0] * image.shape[1] for _, image in group)
        if len(group) >= max_images or pixels > MAX_PIXELS:
            yield group
            group = []
    yield group


def _fit_for_drawing(image: np.ndarray, found: ImageDetections, score: float) -> tuple[np.ndarray, ImageDetections]:
    """Returns the image and the detections to draw, scaled down if full-size masks would not fit into memory."""
    found = found.select(found.scores >= score)
    height, width = found.image_hw
    excess = len(found) * height * width / MAX_MASK_BYTES
    if excess > 1:
        new_hw = (max(1, int(height / excess**0.5)), max(1, int(width / excess**0.5)))
        return resize_image(image, new_hw), found.resized(new_hw)
    return image, found


def _unique_targets(files: Sequence[InputFile]) -> dict[InputFile, str]:
    """Returns a path under the pictures folder for each file: its name with the suffix .jpg, numbered if two clash."""
    taken: set[str] = set()
    targets = {}
    for file in files:
        stem, number = Path(file.name).with_suffix("").as_posix(), 1
        target = f"{stem}.jpg"
        while target.casefold() in taken:
            number += 1
            target = f"{stem}_{number}.jpg"
        taken.add(target.casefold())
        targets[file] = target
    return targets
