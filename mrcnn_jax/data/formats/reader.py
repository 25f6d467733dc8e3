"""Reading a data set of any known format: which format it is, and a source for each of its splits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn_jax.config.depth_setting import AUTO_DEPTH
from mrcnn_jax.data.coco import coco_file_source
from mrcnn_jax.data.formats import coco_folders, cvat, instance_masks, labelme, via, voc, yolo
from mrcnn_jax.data.formats.dataset_files import DatasetFiles, FileFault
from mrcnn_jax.data.formats.format_data import FormatData, FormatOptions, convert_splits
from mrcnn_jax.data.formats.split_names import choose_splits
from mrcnn_jax.data.source import Source
from mrcnn_jax.errors import ConfigError, DataError

AUTO = "auto"
COCO = "coco"

_READERS: dict[str, tuple[Callable[[DatasetFiles], str], Callable[[DatasetFiles, FormatOptions], FormatData]]] = {
    "labelme": (labelme.recognise, labelme.read),
    "yolo": (yolo.recognise, yolo.read),
    "via": (via.recognise, via.read),
    "voc": (voc.recognise, voc.read),
    "cvat": (cvat.recognise, cvat.read),
    "masks": (instance_masks.recognise, instance_masks.read),
}
FORMATS = (COCO, *_READERS)
"""Names of the formats."""


@dataclass(frozen=True)
class FormatSources:
    """The splits of a data set."""

    format: str
    reason: str  # why it is of this format
    sources: dict[str, Source]  # by the name of the split


def recognise(files: DatasetFiles) -> dict[str, str]:
    """Returns the formats that the files may have, each with the reason.

    Masks are recognised only where no annotation file is, since masks are often drawn beside annotations.
    """
    found = {COCO: coco_folders.recognise(files)} | {
        name: look(files) for name, (look, _) in _READERS.items() if name != "masks"
    }
    found = {name: reason for name, reason in found.items() if reason}
    return found or {name: reason for name in ("masks",) if (reason := instance_masks.recognise(files))}


def format_sources(
    path: str | Path,
    format_name: str = AUTO,
    options: FormatOptions | None = None,
    *,
    shares: Sequence[float] = (),
    depth: str = AUTO_DEPTH,
) -> FormatSources:
    """Returns a source for each split of the data set in a folder or a zip file.

    Args:
        path: folder, or zip or tar archive.
        format_name: one of FORMATS, or auto to recognise it.
        options: how the format is read.
        shares: shares of train, val and perhaps test, by a hash of the images, for data sets without splits.
        depth: range of images with more than 8 bits: auto, full or LOW,HIGH (data/depth.py).

    Raises:
        ConfigError: the files fit several formats, or an option does not fit them.
        DataError: the files cannot be read, or fit no format.
    """
    files = DatasetFiles(Path(path))
    options = options or FormatOptions()
    reason = "named on the command line"
    if format_name == AUTO:
        found = recognise(files)
        if not found:
            raise DataError(
                f"{path} is of no known format ({', '.join(FORMATS)}): {len(files.names)} files, {len(files.images)} "
                "images. See docs/your_data.md for what is expected."
            )
        if len(found) > 1:
            fits = "; ".join(f"{name}: {reason}" for name, reason in found.items())
            raise ConfigError(f"{path} fits several formats ({fits}). Name one: mrcnn prepare {next(iter(found))} ...")
        ((format_name, reason),) = found.items()
    _check_options(format_name, options)
    try:
        if format_name == COCO:
            splits = coco_folders.read(files)
        else:
            splits = convert_splits(files, _READERS[format_name][1](files, options))
    except FileFault as fault:  # of a file that stands for the whole data set, such as a list of its images
        raise DataError(f"{files.path / fault.name}: {fault.reason}.") from None
    splits[0].coco.findings.notes[:0] = files.notes
    sources = {
        split.name: coco_file_source(split.coco, split.folder, depth=depth) for split in choose_splits(splits, shares)
    }
    return FormatSources(format_name, reason, sources)


def _check_options(format_name: str, options: FormatOptions) -> None:
    """Raises ConfigError if an option is given that the format does not have."""
    if options.class_attribute and format_name != "via":
        raise ConfigError(f"--class-attribute is for VIA; the data set is of the format {format_name}.")
    if options.class_name != FormatOptions.class_name and format_name not in ("via", "masks"):
        raise ConfigError(f"--class-name is for masks and VIA; the format {format_name} has classes of its own.")
