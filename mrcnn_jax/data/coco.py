"""Images and annotations in COCO format as a source for preparation."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mrcnn_jax.config.depth_setting import AUTO_DEPTH, parse_depth
from mrcnn_jax.data.coco_file import CocoFile, CocoImage, read_coco
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.file_form import find_file_form
from mrcnn_jax.data.image_names import ImageFile, ImageFolder
from mrcnn_jax.data.images import ImageError, ImageHeader, ImageHW, decode_image, read_header
from mrcnn_jax.data.read_object import FileForm, numbers_of_bbox, read_object
from mrcnn_jax.data.rotation import RotatedImage, Rotation, choose_frames, turn_annotation
from mrcnn_jax.data.source import Source, SourceImage
from mrcnn_jax.errors import ConfigError, DataError

Crowds = Literal["ignore", "objects"]
"""What objects with iscrowd 1 are: regions that are neither learned nor scored, or ordinary objects."""

_NUM_THREADS = 8


@dataclass(frozen=True)
class _FoundImage:
    """An image of the annotation file and what its file in the folder says."""

    path: ImageFile | None
    digest: str = ""
    header: ImageHeader | None = None
    renamed_to: str = ""  # path in the folder, if the file is found under another name
    fault: str = ""  # why there is no path


def coco_source(
    images: str | Path,
    annotations: str | Path,
    *,
    annotated_only: bool = False,
    crowds: Crowds = "ignore",
    rotation: Rotation = "auto",
    depth: str = AUTO_DEPTH,
) -> Source:
    """Returns the images in the folder `images` that the file `annotations` lists.

    Args:
        images: folder of the images.
        annotations: annotation file in COCO's format, also gzip.
        annotated_only: leave out images without objects or, if categories have keypoints, images without a labelled
            keypoint, as in the paper's training for human pose estimation (section 5).
        crowds: "objects" takes objects with iscrowd 1 as ordinary objects.
        rotation: frame of the annotations of images with an EXIF orientation (data/rotation.py).
        depth: range of images with more than 8 bits: auto, full or LOW,HIGH (data/depth.py).

    Raises:
        ConfigError: an option has an unknown value.
        DataError: the folder or the file cannot be read, or lists no images.
    """
    images, annotations = Path(images), Path(annotations)
    _check_options(crowds, rotation, depth)
    if not images.is_dir():
        raise DataError(f"The image folder {images} does not exist.")
    coco = read_coco(annotations, crowds_are_objects=crowds == "objects")
    return coco_file_source(
        coco, ImageFolder(images), annotated_only=annotated_only, crowds=crowds, rotation=rotation, depth=depth
    )


def coco_file_source(
    coco: CocoFile,
    folder: ImageFolder,
    *,
    annotated_only: bool = False,
    crowds: Crowds = "ignore",
    rotation: Rotation = "auto",
    depth: str = AUTO_DEPTH,
) -> Source:
    """Returns the images in `folder` that an annotation file lists; arguments and errors are those of `coco_source`."""
    num_listed = len(coco.images)
    if annotated_only:
        of_points = any(category.keypoints for category in coco.categories)
        coco = replace(coco, images=tuple(image for image in coco.images if _is_annotated(image, of_points)))
    if not coco.images:
        reasons = " ".join(coco.findings.describe())
        raise DataError(f"{coco.path} lists no images{' with annotations' * annotated_only}. {reasons}".strip())
    found = list(_find_images(folder, coco.images))
    stored = _choose_stored(coco, found, rotation)
    form = _find_file_form(coco, found, stored, crowds)

    def load(index: int) -> SourceImage:
        return _load(coco.images[index], found[index], index in stored, form, depth)

    def describe(index: int) -> str:
        image = coco.images[index]
        return f"image {image.image_id} {image.file_name[:200]!r}"

    return Source(
        coco.path.stem,
        _fingerprint(coco, found, (crowds, rotation, depth)),
        coco.categories,
        len(coco.images),
        load,
        describe,
        num_listed - len(coco.images),
        coco.findings,
        depth,
    )


def _check_options(crowds: str, rotation: str, depth: str) -> None:
    for name, value, choices in (
        ("crowds", crowds, ("ignore", "objects")),
        ("rotation", rotation, ("auto", "upright", "stored")),
    ):
        if value not in choices:
            raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {value!r}.")
    try:
        parse_depth(depth)
    except ValueError as error:
        raise ConfigError(f"depth: {error}.") from None


def _is_annotated(image: CocoImage, of_points: bool) -> bool:
    if not of_points:
        return bool(image.annotations)
    keypoints = [item.get("keypoints") for item in image.annotations]
    return any(isinstance(values, list) and any(values[2::3]) for values in keypoints)


def _find_images(folder: ImageFolder, images: Iterable[CocoImage]) -> Iterator[_FoundImage]:
    """Yields the file of each image, with the digest of its content and its header. Several threads read."""

    def find(image: CocoImage) -> _FoundImage:
        try:
            path, is_renamed = folder.locate(image.file_name)
            renamed_to = folder.name_of(path) if is_renamed else ""
            data = path.read_bytes()
        except ImageError as error:
            return _FoundImage(None, fault=error.reason)
        except OSError:
            return _FoundImage(None, fault="image cannot be opened")
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        try:
            return _FoundImage(path, digest, read_header(data), renamed_to)
        except ImageError:
            return _FoundImage(path, digest, None, renamed_to)

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        yield from pool.map(find, images)


def _choose_stored(coco: CocoFile, found: list[_FoundImage], rotation: Rotation) -> set[int]:
    """Returns the positions of the images whose annotations are in the frame of the stored pixels."""
    rotated = {
        index: RotatedImage(item.header, image.image_hw, image.annotations)
        for index, (image, item) in enumerate(zip(coco.images, found, strict=True))
        if item.header is not None and item.header.orientation != 1
    }
    frames = choose_frames(list(rotated.values()), rotation)
    coco.findings.notes.extend(frames.notes)
    return {index for index, is_stored in zip(rotated, frames.is_stored, strict=True) if is_stored}


def _frame_hw(image: CocoImage, item: _FoundImage, is_stored: bool) -> ImageHW | None:
    """Returns the size of the frame in which an image is annotated, or None if it is unknown."""
    if item.header is None:
        return image.image_hw
    return item.header.stored_hw if is_stored else item.header.image_hw


def _find_file_form(coco: CocoFile, found: list[_FoundImage], stored: set[int], crowds: Crowds) -> FileForm:
    """Returns what the objects of the file have in common."""
    num_keypoints = {category.id: len(category.keypoints) for category in coco.categories}
    if coco.is_converted:
        return FileForm(num_keypoints, boxes_are_of_masks=True, crowds_are_objects=crowds == "objects")
    frames = (
        _frame_hw(image, item, index in stored)
        for index, (image, item) in enumerate(zip(coco.images, found, strict=True))
    )
    objects = [
        (annotation, frame_hw)
        for image, frame_hw in zip(coco.images, frames, strict=True)
        if frame_hw is not None
        for annotation in image.annotations
    ]
    form, notes = find_file_form(objects, num_keypoints)
    coco.findings.notes.extend(notes)
    return replace(form, crowds_are_objects=crowds == "objects")


def _load(image: CocoImage, item: _FoundImage, is_stored: bool, form: FileForm, depth: str) -> SourceImage:
    if item.path is None:
        raise ImageError(item.fault)
    try:
        data = item.path.read_bytes()
    except OSError:
        raise ImageError("image cannot be opened") from None
    decoded = decode_image(data, depth)
    header = item.header or read_header(data)
    frame_hw = _frame_hw(image, replace(item, header=header), is_stored)
    assert frame_hw is not None
    findings = Findings()  # the objects themselves are counted with the file
    which = f"image {image.image_id} {image.file_name[:200]!r}"
    if item.renamed_to:
        findings.repair("image is found under another name", f"{which} -> {item.renamed_to!r}")
    _check_size(image, header, findings, which)
    for note in decoded.notes:
        findings.repair(note, which)
    void = image.void
    if is_stored and void is not None:
        turned = turn_annotation({"bbox": [0, 0, 1, 1], "segmentation": void}, header.stored_hw, header.orientation)
        void = turned["segmentation"]
    kept: list[dict[str, Any]] = []
    for given in image.annotations:
        read = read_object(given, frame_hw, form)
        of = f"annotation {given['id']} of image {image.image_id}"
        if read.annotation is None:
            findings.leave_out_object(read.left_out or "", of)
            continue
        for reason in dict.fromkeys(read.repairs):
            findings.repair(reason, of)
        annotation = read.annotation
        if is_stored:
            annotation = turn_annotation(annotation, header.stored_hw, header.orientation)
            findings.repair("object of a rotated image is turned upright", of)
        kept.append(annotation)
    height, width = decoded.pixels.shape[:2]
    return SourceImage(image.image_id, image.file_name, data, (height, width), tuple(kept), void, findings)


def _check_size(image: CocoImage, header: ImageHeader, findings: Findings, which: str) -> None:
    """Raises ImageError if the file gives another size than the image has in any frame."""
    if image.image_hw in (None, header.image_hw, header.stored_hw):
        return
    if image.image_hw == header.image_hw[::-1] and _fit(image, header.image_hw) and not _fit(image, image.image_hw):
        findings.repair("width and height are exchanged", which)
        return
    raise ImageError("size differs from the annotation file")


def _fit(image: CocoImage, image_hw: ImageHW) -> bool:
    boxes = [numbers_of_bbox(annotation.get("bbox")) for annotation in image.annotations]
    return all(
        box is None or (box[0] + box[2] <= image_hw[1] + 1 and box[1] + box[3] <= image_hw[0] + 1) for box in boxes
    )


def _fingerprint(coco: CocoFile, found: Iterable[_FoundImage], options: tuple[str, ...]) -> str:
    """Returns the SHA-256 of the annotation file, the options, and the names and contents of its images."""
    digest = hashlib.sha256(f"{coco.sha256} {options}\n".encode())
    for image, item in zip(coco.images, found, strict=True):
        digest.update(f"{image.file_name!a} {item.digest}\n".encode())
    return digest.hexdigest()
