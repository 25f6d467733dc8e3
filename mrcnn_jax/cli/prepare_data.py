"""Converts a data set to a folder for training and evaluation: DIR/SPLIT, a TensorFlow Datasets folder."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from mrcnn_jax import command_names
from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.prepare_formats import AnyFormat, Auto, Cvat, Labelme, Masks, Via, Voc, Yolo
from mrcnn_jax.cli.progress import show_progress
from mrcnn_jax.config import Config
from mrcnn_jax.config.depth_setting import AUTO_DEPTH, parse_depth
from mrcnn_jax.data.cityscapes import cityscapes_source, find_splits
from mrcnn_jax.data.coco import Crowds, coco_source
from mrcnn_jax.data.data_findings import HOPELESS_FRACTION, USUAL_FRACTION
from mrcnn_jax.data.dataset import open_dataset
from mrcnn_jax.data.prepare import PreparedSplit, prepare
from mrcnn_jax.data.rotation import Rotation
from mrcnn_jax.data.shapes import EASY, HARD, shapes_source
from mrcnn_jax.data.source import Source
from mrcnn_jax.data.tiled_images import Tiling
from mrcnn_jax.data.tiles import check_tiling


@dataclass(frozen=True)
class Coco:
    """Any data set in COCO format, as tools export it: polygons, RLE, boxes, crowds, keypoints. One call per split."""

    images: Path
    """Folder of the images."""
    annotations: Path
    """Annotation file: JSON, also with gzip."""
    to: Path
    """Folder to write into; the split becomes a folder in it."""
    split: str = "train"
    """Name of the split."""
    overwrite: bool = False
    """Replace a split that was made from something else."""
    max_skip_fraction: float = HOPELESS_FRACTION
    """Share of images or objects left out above which the command stops."""
    strict: bool = False
    """Stop if more than 1 % of the images or objects would be left out."""
    annotated_only: bool = False
    """Leave out images without objects or, if categories have keypoints, without any visible one."""
    crowds: Crowds = "ignore"
    """What objects with iscrowd 1 are: regions that are neither learned nor scored, or ordinary objects."""
    rotation: Rotation = "auto"
    """Frame of the annotations of images that carry a camera's rotation: that of the upright image, that of the pixels
    as stored, or what sizes and objects in the file tell, and upright if they tell nothing."""
    depth: str = AUTO_DEPTH
    """Range of images with more than 8 bits a channel: the smallest usual one that contains an image's values (auto),
    0..65535 or 0..1 (full), or LOW,HIGH."""
    tile: int = 0
    """Side in pixels of the tiles into which larger images are cut; 0 keeps images whole."""
    overlap: int = 128
    """Least overlap of two tiles in pixels."""

    def __post_init__(self) -> None:
        _check_fraction(self.max_skip_fraction)
        if self.tile:
            check_tiling(self.tile, self.overlap)
        try:
            parse_depth(self.depth)
        except ValueError as error:
            raise ValueError(f"depth: {error}.") from None


@dataclass(frozen=True)
class Cityscapes:
    """The instances of Cityscapes: leftImg8bit and gtFine, with instance-id images or polygons."""

    root: Path
    """Folder that contains leftImg8bit and gtFine."""
    to: Path
    """Folder to write into; each split becomes a folder in it."""
    split: tuple[str, ...] = ()
    """Names of the splits; by default train and val, if they exist."""
    overwrite: bool = False
    """Replace splits that were made from something else."""
    max_skip_fraction: float = USUAL_FRACTION
    """Share of unusable images or objects above which the command stops."""

    def __post_init__(self) -> None:
        _check_fraction(self.max_skip_fraction)


@dataclass(frozen=True)
class Shapes:
    """Generated images of overlapping shapes, in the splits train and val."""

    to: Path
    """Folder to write into."""
    num_images: int = 1000
    """Number of images in the split train."""
    num_val_images: int = 100
    """Number of images in the split val."""
    seed: int = 0
    """Seed of the generated images."""
    hard: bool = False
    """Draw thin parts, similar classes and more occlusion, as for the ablations."""
    overwrite: bool = False
    """Replace splits that were made from something else."""

    def __post_init__(self) -> None:
        if min(self.num_images, self.num_val_images) < 1 or self.seed < 0:
            raise ValueError("num_images and num_val_images: expected 1 or more; seed: 0 or more.")


def main() -> None:
    """Prepares one split, or those of a data set, and prints the next command."""
    kinds = Coco | Auto | Labelme | Yolo | Via | Voc | Cvat | Masks | Cityscapes | Shapes
    arguments = command_line.parse(kinds, __doc__ or "")
    if isinstance(arguments, AnyFormat):
        _prepare_format(arguments)
    elif isinstance(arguments, Shapes):
        style = HARD if arguments.hard else EASY
        for stream, (split, count) in enumerate([("train", arguments.num_images), ("val", arguments.num_val_images)]):
            source = shapes_source(count, seed=arguments.seed, stream=stream, style=style)
            write(source, arguments.to, split, arguments.overwrite, max_skip_fraction=0.0)
        print(next_command(arguments.to, "train", "shapes_tiny --workdir runs/shapes"))
    elif isinstance(arguments, Cityscapes):
        splits = arguments.split or find_splits(arguments.root)
        for split in splits:
            source = cityscapes_source(arguments.root, split)
            write(source, arguments.to, split, arguments.overwrite, arguments.max_skip_fraction)
        print(next_command(arguments.to, splits[0], "mask_rcnn_r50_fpn_cityscapes --workdir runs/cityscapes"))
    else:
        source = coco_source(
            arguments.images,
            arguments.annotations,
            annotated_only=arguments.annotated_only,
            crowds=arguments.crowds,
            rotation=arguments.rotation,
            depth=arguments.depth,
        )
        allowed = min(arguments.max_skip_fraction, USUAL_FRACTION if arguments.strict else 1.0)
        tiling = Tiling(arguments.tile, arguments.overlap, arguments.annotated_only) if arguments.tile else None
        if write(source, arguments.to, arguments.split, arguments.overwrite, allowed, tiling).num_objects:
            _print_next(source, arguments.to, arguments.split)


def _prepare_format(arguments: AnyFormat) -> None:
    """Prepares all splits of a data set in a format that is named or recognised."""
    found = arguments.read()
    command_line.note(f"Format: {found.format} ({command_line.one_line(found.reason)}).")
    written = {
        split: write(source, arguments.to, split, arguments.overwrite, arguments.allowed_fraction, arguments.tiling)
        for split, source in found.sources.items()
    }
    split = "train" if "train" in written else next(iter(written))
    if written[split].num_objects:
        _print_next(found.sources[split], arguments.to, split)


def _print_next(source: Source, to: Path, split: str) -> None:
    """Prints the command to train on a split that was written from `source`."""
    classes = "" if len(source.categories) == Config().model.num_classes else " --model.num-classes 0"
    masks = " --model.no-masks" if open_dataset(f"{to}:{split}").has_no_masks else ""
    print(next_command(to, split, f"mask_rcnn_r50_fpn_1x{classes}{masks} --workdir runs/r50"))


def _check_fraction(value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"max_skip_fraction: expected 0 to 1, got {value}.")


def next_command(to: Path, split: str, preset: str) -> str:
    """Returns the command to train on the splits in the folder; `split` is the one that was just written."""
    splits = sorted(path.parent.name for path in to.glob("[!.]*/metadata.json"))
    train = "train" if "train" in splits else split
    others = [name for name in ("val", *splits) if name in splits and name != train]
    data = ["--data.train", f"{to}:{train}"] + (["--data.val", f"{to}:{others[0]}"] if others else [])
    hint = "" if others else " (add --data.val for scores once another --split is prepared)"
    return f"Next: {command_names.typed('train')} {preset} {shlex.join(data)}{hint}"


def write(
    source: Source, to: Path, split: str, overwrite: bool, max_skip_fraction: float, tiling: Tiling | None = None
) -> PreparedSplit:
    """Prepares one split, shows progress, and prints a summary."""
    with show_progress(f"{to / split}: images") as progress:
        prepared = prepare(
            source,
            to,
            split,
            overwrite=overwrite,
            max_skip_fraction=max_skip_fraction,
            tiling=tiling,
            progress=progress,
        )
    for line in prepared.findings:
        print(command_line.one_line(line))
    if source.num_left_out:
        print(f"{source.num_left_out} images without annotations left out.")
    verb = "Reused" if prepared.reused else "Wrote"
    counts = f"{prepared.num_images} images, {prepared.num_objects} objects, {len(source.categories)} classes"
    print(f"{verb} {prepared.path}: {counts} from {source.name}.")
    return prepared
