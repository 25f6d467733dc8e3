"""Options of `mrcnn prepare` for formats other than one COCO file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from mrcnn_jax.config.depth_setting import AUTO_DEPTH, parse_depth
from mrcnn_jax.data.data_findings import HOPELESS_FRACTION, USUAL_FRACTION
from mrcnn_jax.data.formats.format_data import FormatOptions, Rectangles
from mrcnn_jax.data.formats.reader import AUTO, FormatSources, format_sources
from mrcnn_jax.data.formats.split_names import parse_shares
from mrcnn_jax.data.tiled_images import Tiling
from mrcnn_jax.data.tiles import check_tiling


@dataclass(frozen=True)
class AnyFormat:
    """The options that all formats share."""

    format_name: ClassVar[str] = AUTO

    source: Annotated[Path, tyro.conf.arg(name="from")]
    """Folder, or zip file as it was downloaded."""
    to: Path
    """Folder to write into; each split becomes a folder in it."""
    split: str = ""
    """Shares of train, val and perhaps test, such as 0.8,0.2, for a data set without splits. An image's split depends
    on its own bytes alone, so copies stay together. By default all images are in the split train."""
    overwrite: bool = False
    """Replace splits that were made from something else."""
    max_skip_fraction: float = HOPELESS_FRACTION
    """Share of images or objects left out above which the command stops."""
    strict: bool = False
    """Stop if more than 1 % of the images or objects would be left out."""
    depth: str = AUTO_DEPTH
    """Range of images with more than 8 bits a channel: the smallest usual one that contains an image's values (auto),
    0..65535 or 0..1 (full), or LOW,HIGH."""
    rectangles: Rectangles = "boxes"
    """What drawn rectangles are: objects with a box but without a mask, or objects whose mask is the rectangle."""
    class_name: str = "object"
    """Class of all objects of formats without classes: masks, and regions of VIA without attributes."""
    class_attribute: str = ""
    """Attribute of VIA's regions that contains the class, if there are several."""
    tile: int = 0
    """Side in pixels of the tiles into which larger images are cut; 0 keeps images whole."""
    overlap: int = 128
    """Least overlap of two tiles in pixels."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_skip_fraction <= 1.0:
            raise ValueError(f"max_skip_fraction: expected 0 to 1, got {self.max_skip_fraction}.")
        for name, parse, value in (
            ("split", parse_shares, self.split or "0.5,0.5"),
            ("depth", parse_depth, self.depth),
        ):
            try:
                parse(value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}.") from None
        if self.tile:
            check_tiling(self.tile, self.overlap)
        if not self.class_name.strip():
            raise ValueError("class_name: expected a name.")

    @property
    def allowed_fraction(self) -> float:
        """Share of images or objects that may be left out."""
        return min(self.max_skip_fraction, USUAL_FRACTION if self.strict else 1.0)

    @property
    def tiling(self) -> Tiling | None:
        """How images are cut into tiles."""
        return Tiling(self.tile, self.overlap) if self.tile else None

    def read(self) -> FormatSources:
        """Returns the splits. Raises DataError and ConfigError."""
        options = FormatOptions(self.class_attribute, self.class_name.strip(), self.rectangles)
        shares = parse_shares(self.split) if self.split else ()
        return format_sources(self.source, self.format_name, options, shares=shares, depth=self.depth)


@dataclass(frozen=True)
class Auto(AnyFormat):
    """A folder or zip file of any known format, which is recognised: COCO, LabelMe, YOLO, VIA, VOC, CVAT or masks."""


@dataclass(frozen=True)
class Labelme(AnyFormat):
    """LabelMe: a JSON file for each image."""

    format_name = "labelme"


@dataclass(frozen=True)
class Yolo(AnyFormat):
    """YOLO: a text file for each image, with polygons, boxes or keypoints, and data.yaml."""

    format_name = "yolo"


@dataclass(frozen=True)
class Via(AnyFormat):
    """VGG Image Annotator 1 and 2: a JSON file, or a saved project."""

    format_name = "via"


@dataclass(frozen=True)
class Voc(AnyFormat):
    """Pascal VOC: SegmentationObject and SegmentationClass, or Annotations with boxes."""

    format_name = "voc"


@dataclass(frozen=True)
class Cvat(AnyFormat):
    """CVAT for images 1.1: annotations.xml and images."""

    format_name = "cvat"


@dataclass(frozen=True)
class Masks(AnyFormat):
    """Folders of instance masks: a picture of object numbers for each image, or a file for each object."""

    format_name = "masks"
