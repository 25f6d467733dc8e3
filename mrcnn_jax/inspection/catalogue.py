"""The checks of `mrcnn inspect-data`: their stable ids, what each looks for, and what to do about it.

Ids are part of the report's format: a check keeps its id as long as it exists. A finding is an error if training or
evaluation is refused or its result is wrong, a warning if quality or speed is lost, and otherwise a note.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From the worst on."""

FEW = 0.01
"""Share of images or objects up to which most findings are notes."""


class Check(NamedTuple):
    """One check of the catalogue."""

    title: str
    looks_for: str
    remedy: str


CHECKS: dict[str, Check] = {
    # A split by itself
    "empty-split": Check(
        "Split without images", "splits that have no image", "Prepare the split again, or leave it out."
    ),
    "nothing-to-learn": Check(
        "No object to learn or score",
        "splits whose images have no object, crowds excepted",
        "Give the annotations to the images; if ordinary objects are marked as crowds, prepare with --crowds objects.",
    ),
    "left-out": Check(
        "Left out by preparation",
        "images and objects that preparation could not read",
        "DIR/SPLIT/skipped.json lists each one; docs/your_data.md explains the reasons. Correct the annotation file.",
    ),
    "repaired": Check(
        "Repaired by preparation",
        "images and objects that preparation changed",
        "Look at some of those that DIR/SPLIT/skipped.json lists; docs/your_data.md explains what was done.",
    ),
    # Classes
    "one-class": Check(
        "A single class",
        "splits with objects of one class",
        "Nothing, if there is one kind of object. Otherwise the class names were lost in the export.",
    ),
    "unused-class": Check(
        "Classes without objects",
        "classes that are listed, but have no object in any split",
        "Remove them from the category list, unless the weights that you start from have them.",
    ),
    "rare-class": Check(
        "Classes with few objects",
        "classes with fewer than 10 training objects",
        "Annotate more of them, merge the class with another, or repeat its images (--data.repeat-threshold).",
    ),
    "imbalance": Check(
        "Very unequal classes",
        "classes of which one has at least 100 times as many training objects as another",
        "Repeat the images of rare classes with --data.repeat-threshold 0.01, or annotate more of them.",
    ),
    "alike-names": Check(
        "Class names that are almost equal",
        "names of one category list that differ by case, spaces, a hyphen or a plural s alone",
        "If they are one class, give them one name and prepare the data again.",
    ),
    # Images
    "unreadable-image": Check(
        "Images that cannot be read",
        "records that are damaged",
        "Prepare the split again with --overwrite; if that does not help, replace the image files.",
    ),
    "blank-image": Check(
        "Blank images",
        "images whose grey values vary by less than one level",
        "Remove them, or find out why they were stored empty; 16-bit images may need --depth LOW,HIGH.",
    ),
    "no-objects": Check(
        "Images without objects",
        "images in which nothing is annotated",
        "Nothing, if there is nothing to find: they teach the background. Otherwise annotate them or prepare with "
        "--annotated-only.",
    ),
    "rotated-image": Check(
        "Images with a camera's rotation",
        "images whose EXIF orientation is not upright; they are turned upright",
        "Check in the images that masks lie on their objects; if not, prepare with --rotation stored or upright.",
    ),
    "deep-image": Check(
        "Images of more than 8 bits",
        "images with 16-bit or floating-point values, which are scaled to 0..255",
        "Nothing, unless images look too dark or clipped: then prepare with --depth LOW,HIGH.",
    ),
    "mixed-depth": Check(
        "Images scaled from different ranges",
        "splits whose images were scaled to 0..255 from different ranges of values",
        "If brightness has a meaning, fix one range for all images: prepare with --depth LOW,HIGH.",
    ),
    "several-frames": Check(
        "Files of several frames",
        "TIFF stacks and animations, of which the first frame is read",
        "Store each frame that is annotated as an image of its own.",
    ),
    "long-image": Check(
        "Very long images",
        "images with one side at least four times the other",
        "Cut them into tiles: whole, they are shrunk to fit and fill little of a canvas.",
    ),
    "copied-image": Check(
        "Images that occur twice",
        "images of one split with identical pixels",
        "Remove the copies. If their annotations differ, one of them is wrong.",
    ),
    "similar-image": Check(
        "Images that are nearly equal",
        "images of one split that show the same: resized, compressed, brightened, mirrored or turned copies",
        "Remove copies. Frames of one film should be thinned out.",
    ),
    # Objects
    "box-mask": Check(
        "Boxes that do not fit their masks",
        "objects whose box and mask have an IoU below 0.8 and differ by more than 2 pixels",
        "Correct the wrong one of the two. Training takes both as they are.",
    ),
    "box-outside": Check(
        "Boxes that extend beyond the image",
        "objects with more than a tenth of their box outside the image",
        "Boxes are clipped. If many are concerned, the images were resized or cropped after the annotation.",
    ),
    "tiny-box": Check(
        "Boxes thinner than a pixel",
        "objects with a side below one pixel inside the image",
        "Remove them: they are usually slips of the mouse or the remainder of a crop.",
    ),
    "no-mask": Check(
        "Objects without a mask",
        "objects, crowds excepted, that have only a box",
        "Annotate masks, or train without a mask head (--model.no-masks). See docs/own_data.md.",
    ),
    "rectangle-mask": Check(
        "Masks that are rectangles",
        "masks that fill their box; noted if they are at least a fifth of all",
        "If boxes were exported as polygons, prepare without segmentation and train with --model.no-masks.",
    ),
    "area": Check(
        "Areas that do not fit the masks",
        "objects whose area is less than half or more than twice that of their mask",
        "Remove area from the file, so that it is computed. AP of small, medium and large objects uses it.",
    ),
    "repeated-object": Check(
        "Objects that are annotated twice",
        "objects of one class that cover the same pixels",
        "Remove the copies: each lets a correct detection count as an error.",
    ),
    "contradicting-object": Check(
        "One object, two classes",
        "objects of different classes that cover the same pixels",
        "Keep the right class of the two.",
    ),
    "crowds": Check(
        "Crowds",
        "objects with iscrowd 1, which are neither learned nor scored",
        "If they are ordinary objects, prepare with --crowds objects.",
    ),
    # The data and the settings
    "no-anchor": Check(
        "Boxes that no anchor covers",
        "training boxes whose best anchor has an IoU below targets.rpn-background-iou",
        "Set --model.anchor-sizes and --model.anchor-ratios to the sizes and shapes of your boxes, or change the size "
        "of the images (--data.short-sides).",
    ),
    "weak-anchors": Check(
        "Anchors that fit most boxes poorly",
        "training splits whose median box has a best anchor with an IoU nearer to background than to foreground",
        "Set --model.anchor-sizes and --model.anchor-ratios closer to the sizes and shapes of your boxes.",
    ),
    "too-small": Check(
        "Objects too small for the network",
        "objects whose box is less than one cell of the finest features on a side at the network's input, on average",
        "Use larger images (--data.short-sides, --data.max-side, --data.canvases, and the same of --test), or tiles.",
    ),
    "too-many-objects": Check(
        "More objects than slots",
        "training images with more objects than data.max-objects; the smallest are left out",
        "Raise --data.max-objects to the number stated, with more memory, or cut the images into tiles.",
    ),
    "too-many-to-detect": Check(
        "More objects than detections",
        "evaluated images with more objects than test.max-detections; the others cannot be found",
        "Raise --test.max-detections to the number stated.",
    ),
    "padding": Check(
        "Canvases that are mostly padding",
        "splits whose images fill less than 65 % of their canvases on average",
        "Choose --data.canvases (and --test.canvases) of the shape of your images, in multiples of 32.",
    ),
    "resize": Check(
        "Images that change size by more than a factor of 2",
        "splits most of whose images are enlarged or shrunk by more than 2",
        "Enlarged images cost time without more detail; shrunk ones lose small objects. See --data.short-sides.",
    ),
    # Between splits
    "split-copies": Check(
        "Images in two splits",
        "images with identical pixels in two splits",
        "Remove them from one: scores on images that were learned are too high.",
    ),
    "split-similar": Check(
        "Nearly equal images in two splits",
        "images that show the same in two splits: resized, compressed, brightened, mirrored or turned copies",
        "Put all copies of an image, and all frames of a film, into one split.",
    ),
    "split-class-names": Check(
        "Class names that differ between splits",
        "names of one split's category list that another one lacks; classes are matched by name",
        "Give the same classes the same names, and prepare again. Unmatched classes are not scored.",
    ),
    "split-class-missing": Check(
        "Classes that a split lacks",
        "classes that have objects in one split and none in another",
        "Divide the images again, so that each class occurs in both: such a class is not learned, or not scored.",
    ),
    "split-depth": Check(
        "Splits of different depth",
        "splits prepared with different --depth, or of which one has images of more than 8 bits and one has none",
        "Prepare all splits from images of one kind, with the same --depth.",
    ),
    "split-masks": Check(
        "Masks in one split only",
        "splits without any mask beside splits with masks",
        "Prepare the split from a file with segmentations. Masks are then neither learned nor scored there.",
    ),
    "split-scale": Check(
        "Objects of other sizes in another split",
        "splits whose median object is more than twice as large, at the network's input, as in another",
        "Check that the splits have images of the same kind, and that training and test sizes fit each other.",
    ),
    "split-size": Check(
        "Few images to score",
        "evaluated splits of fewer than 20 images",
        "Their AP changes by several points with each image. Use more, or compare with care.",
    ),
}


@dataclass(frozen=True)
class Example:
    """One place where a fault is seen: an image and, possibly, some of its objects."""

    split: str
    image: int  # position in the split
    objects: tuple[int, ...] = ()  # positions in the image's record; empty: the whole image
    text: str = ""
    other: "Example | None" = None  # the image to compare with


@dataclass(frozen=True)
class InspectionFinding:
    """What a check found in one split, or between splits."""

    check: str  # id in CHECKS
    severity: Severity
    splits: tuple[str, ...]
    text: str  # one sentence with the numbers
    count: int = 0  # of images, objects or classes concerned
    examples: tuple[Example, ...] = ()  # all places that are known, the worst first

    def __post_init__(self) -> None:
        if self.check not in CHECKS:
            raise ValueError(f"Expected the id of a check, got {self.check!r}.")


def severity_of_share(count: int, total: int, few: float = FEW) -> Severity:
    """Returns warning if more than this share is concerned, else note."""
    return "warning" if count > few * total else "note"


def of_total(count: int, total: int, things: str) -> str:
    """Returns a text such as `3 of 120 images (2.5 %)`."""
    return f"{count:,} of {total:,} {things} ({100 * count / max(total, 1):.1f} %)"
