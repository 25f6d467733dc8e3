"""Preparing a data set: checks a source of images and COCO annotations and writes it as a folder DIR/SPLIT."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mrcnn_jax.data.annotations import clip_bbox, find_fault, has_mask
from mrcnn_jax.data.bitmaps import mask_area
from mrcnn_jax.data.builder import READABLE_FORMATS, write_split
from mrcnn_jax.data.data_findings import HOPELESS_FRACTION, USUAL_FRACTION, Findings
from mrcnn_jax.data.images import ImageError, ImageHW
from mrcnn_jax.data.source import Source, SourceImage
from mrcnn_jax.data.tiled_images import TileCutter, Tiling
from mrcnn_jax.errors import ConfigError

Progress = Callable[[int, int], None]
"""Called with the number of images done and the total number."""

_NUM_THREADS = 8
_CHUNK = 64  # images in memory at a time; one if it is cut into tiles


@dataclass(frozen=True)
class PreparedSplit:
    """The result of `prepare`."""

    path: Path
    num_images: int
    num_objects: int  # crowds included
    findings: list[str]  # one line for each reason why something was repaired or left out, and other notes
    reused: bool  # whether the folder already existed, made from the same source


def prepare(
    source: Source,
    to: str | Path,
    split: str,
    *,
    overwrite: bool = False,
    max_skip_fraction: float = HOPELESS_FRACTION,
    tiling: Tiling | None = None,
    progress: Progress | None = None,
) -> PreparedSplit:
    """Writes `to`/`split`, or reuses it if it was made from the same source.

    With `tiling`, images are cut into tiles. What can be repaired is repaired; what cannot is left out. Both are
    counted in the result and in skipped.json.

    Raises ConfigError if the folder has other content and `overwrite` is not set, DataError if all images or more than
    `max_skip_fraction` of the images or of the objects are left out, and StorageError if the folder cannot be written.
    In all three cases the disk is left unchanged.
    """
    if not re.fullmatch(r"\w[\w-]*", split, re.ASCII):
        raise ConfigError(f"A split name consists of letters, digits, _ and -, got {split!r}.")
    path = Path(to) / split
    source = tiling.apply_to(source) if tiling else source
    if path.exists() and not overwrite:
        return _reuse(path, source)
    findings = copy.deepcopy(source.findings)
    images = _checked_images(source, findings, max_skip_fraction, tiling, progress)
    write_split(path, source, images, findings.summary)
    return _summarise(path, findings.describe(), reused=False)


def _reuse(path: Path, source: Source) -> PreparedSplit:
    try:
        metadata = json.loads((path / "metadata.json").read_text())
        if metadata["format"] in READABLE_FORMATS and metadata["fingerprint"] == source.fingerprint:
            return _summarise(path, [], reused=True)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not ours, or damaged
    raise ConfigError(f"{path} exists and was made from something else; pass --overwrite or another --to.")


def _summarise(path: Path, findings: list[str], *, reused: bool) -> PreparedSplit:
    summary = json.loads((path / "skipped.json").read_text())
    kept = summary.get("kept") or {  # not in format 1
        kind: summary[f"num_{kind}"] - sum(reason["count"] for reason in summary[kind].values())
        for kind in ("images", "objects")
    }
    return PreparedSplit(path, kept["images"], kept["objects"], findings, reused)


def _checked_images(
    source: Source,
    findings: Findings,
    max_skip_fraction: float,
    tiling: Tiling | None,
    progress: Progress | None,
) -> Iterator[SourceImage]:
    """Yields the usable images with their usable annotations, in order, and counts the others in `findings`."""
    findings.num_images = max(findings.num_images, source.num_images)
    cutter = TileCutter(tiling, source.depth) if tiling else None
    for index, image in _load_ahead(source, 1 if tiling else _CHUNK):
        if isinstance(image, ImageError):
            findings.leave_out_image(image.reason, source.describe(index))
        else:
            if image.findings is not None:
                findings.add(image.findings)
            else:
                findings.num_objects += len(image.annotations)
                image = replace(image, annotations=_checked_annotations(image, source, findings))
            for part in cutter.cut(image, findings) if cutter else [image]:
                findings.num_kept_images += 1
                findings.num_kept_objects += len(part.annotations)
                yield part
        if progress is not None:
            progress(index + 1, source.num_images)
    if cutter:
        findings.notes += cutter.notes()
    findings.check(max_skip_fraction, source.name)
    if excess := findings.find_excess(USUAL_FRACTION):
        findings.notes.append(f"Warning: {excess}.")


def _load_ahead(source: Source, chunk: int) -> Iterator[tuple[int, SourceImage | ImageError]]:
    """Yields each image, or why it cannot be used, in order. Several threads read and decode the images."""

    def load(index: int) -> tuple[int, SourceImage | ImageError]:
        try:
            return index, source.load(index)
        except ImageError as error:
            return index, error

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start in range(0, source.num_images, chunk):
            yield from pool.map(load, range(start, min(start + chunk, source.num_images)))


def _checked_annotations(image: SourceImage, source: Source, findings: Findings) -> tuple[dict[str, Any], ...]:
    """Returns the valid annotations of an image, and counts the others in `findings`."""
    num_keypoints = {category.id: len(category.keypoints) for category in source.categories}
    kept = []
    for annotation in image.annotations:
        fault = find_fault(annotation, image.image_hw, num_keypoints[annotation["category_id"]])
        if fault:
            findings.leave_out_object(fault, f"annotation {annotation['id']} of image {image.image_id}")
        else:
            kept.append(_complete(annotation, image.image_hw))
    return tuple(kept)


def _complete(annotation: dict[str, Any], image_hw: ImageHW) -> dict[str, Any]:
    """Returns the annotation with an area. A crowd without a mask covers its box; other objects stay without."""
    complete = dict(annotation)
    if not has_mask(complete):
        x0, y0, x1, y1 = clip_bbox(complete["bbox"], image_hw)
        if not complete.get("iscrowd"):
            complete.pop("segmentation", None)
            return complete | {"area": complete.get("area") or (x1 - x0) * (y1 - y0)}
        complete["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if complete.get("area") is None:
        complete["area"] = mask_area(complete["segmentation"], image_hw)
    return complete
