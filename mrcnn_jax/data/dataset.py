"""Prepared data sets: random access to decoded images with their exact COCO annotations."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax import command_names
from mrcnn_jax.categories import Category
from mrcnn_jax.config.depth_setting import AUTO_DEPTH, FULL_DEPTH
from mrcnn_jax.data.annotations import Segmentation
from mrcnn_jax.data.builder import READABLE_FORMATS
from mrcnn_jax.data.images import ImageError, ImageHW, decode_image, read_header, turn_as_stored
from mrcnn_jax.errors import ConfigError, DataError


def _remedy() -> str:
    return f"create it with {command_names.typed('prepare')}"


@dataclass(frozen=True)
class ObjectRecord:
    """One validated object. Its numbers are exactly those in the annotation file."""

    id: int
    label: int  # 1..C
    bbox: tuple[float, float, float, float]  # x, y, width, height in pixels; may extend beyond the image
    area: float
    is_crowd: bool
    segmentation: Segmentation | None  # None: only the box, and possibly keypoints, are annotated
    keypoints: tuple[float, ...] = ()  # x, y, visibility of each keypoint; empty if none are annotated


@dataclass(frozen=True)
class Record:
    """One image with all of its objects."""

    image_id: int
    file_name: str
    image: np.ndarray  # [H, W, 3] uint8 RGB
    objects: tuple[ObjectRecord, ...]


@dataclass(frozen=True)
class EncodedRecord:
    """One image as its file contains it, with all of its objects."""

    image_id: int
    file_name: str
    data: bytes
    objects: tuple[ObjectRecord, ...]


class Dataset:
    """One prepared split, in the order of its source. It is safe to read from several threads."""

    def __init__(self, path: Path) -> None:
        """Opens the TFDS folder DIR/SPLIT. Raises DataError if it is not prepared data of the current format."""
        import tensorflow_datasets as tfds

        self.path = path
        self.name = ":".join(path.resolve().parts[-2:])
        try:
            metadata = json.loads((path / "metadata.json").read_text())
            if metadata["format"] not in READABLE_FORMATS:
                raise DataError(
                    f"{path} has format {metadata['format']}, expected one of {READABLE_FORMATS}; {_remedy()}."
                )
            self._is_upright = metadata["format"] > 1
            self.depth: str = metadata.get("depth", AUTO_DEPTH if self._is_upright else FULL_DEPTH)
            self.fingerprint: str = metadata["fingerprint"]
            self.categories = tuple(_read_category(entry) for entry in metadata["categories"])
            self.image_ids = np.asarray(metadata["image_ids"], np.int64)  # [N]
            self.sizes = np.asarray(metadata["image_hw"], np.int64).reshape(-1, 2)  # [N, 2] height, width
            # Folders of format 1 may lack these numbers.
            counts = metadata.get("num_objects")
            self.num_objects = None if counts is None else np.asarray(counts, np.int64)  # [N] without crowds
            self.num_crowds: int = metadata.get("num_crowds", 0)
            self.num_with_mask: int | None = metadata.get("num_with_mask")
            self.num_without_mask: int = metadata.get("num_without_mask", 0)
            builder = tfds.builder_from_directory(path)
            (split,) = builder.info.splits
            decoders = {"image": tfds.decode.SkipDecoding()}
            self._records = builder.as_data_source(split=split, decoders=decoders)
            if not len(self._records) == len(self.image_ids) == len(self.sizes):
                raise DataError(f"{path} is incomplete: its records do not match its metadata; {_remedy()}.")
        except DataError:
            raise
        except Exception as error:  # JSON, protobuf, TFDS and ArrayRecord share no base class for damaged files
            raise DataError(f"{path} cannot be read as prepared data ({type(error).__name__}); {_remedy()}.") from error

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def has_no_masks(self) -> bool:
        """Whether there are objects, and none of them has a mask. Crowds do not count."""
        return self.num_with_mask == 0 and self.num_without_mask > 0

    def __getitem__(self, index: int) -> Record:
        """Returns the record with its image decoded. Raises DataError if it cannot be read or decoded."""
        record = self.read_encoded(index)
        return Record(record.image_id, record.file_name, self.decode(record.data, index), record.objects)

    def read_encoded(self, index: int) -> EncodedRecord:
        """Returns the record with its image as it is stored. Raises DataError if it cannot be read."""
        stored = self._read(index)
        file_name = stored["image/filename"].decode()
        return EncodedRecord(int(stored["image/id"]), file_name, stored["image"], self._objects(stored))

    def decode(self, data: bytes, index: int) -> np.ndarray:
        """Returns the pixels [H, W, 3] uint8 of the image that record `index` stores as `data`. Raises DataError."""
        try:
            return self._decode(data, (int(self.sizes[index, 0]), int(self.sizes[index, 1])))
        except ImageError as error:
            raise DataError(f"{self.path}, image {self.image_ids[index]}: {error.reason}.") from None

    def _decode(self, data: bytes, image_hw: ImageHW) -> np.ndarray:
        """Returns the pixels [H, W, 3] of an image of this size. Raises ImageError."""
        image = decode_image(data, self.depth).pixels
        if not self._is_upright:  # format 1 took the stored pixels if they had the annotated size
            header = read_header(data)
            if header.stored_hw == image_hw:
                image = turn_as_stored(image, header.orientation)
        if image.shape[:2] != image_hw:
            raise ImageError("size differs from the annotation file")
        return image

    def objects(self, index: int) -> tuple[ObjectRecord, ...]:
        """Returns the objects of a record, crowds included. The image is not decoded. Raises DataError as above."""
        return self._objects(self._read(index))

    def describe(self, index: int) -> str:
        """Returns the record's file name, id and data set, for messages. The image is not decoded."""
        return f"{self._read(index)['image/filename'].decode()} (id {self.image_ids[index]} of {self.name})"

    def coco_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the whole split as a COCO annotation dict with the data set's own ids. No image is decoded.

        An image with pixels that are not evaluated has them as a compressed run-length code under "void".
        Annotations of objects without a mask have no "segmentation".
        """
        images, annotations = [], []
        for index, (height, width) in enumerate(self.sizes.tolist()):
            stored = self._read(index)
            image_id = int(stored["image/id"])
            file_name = stored["image/filename"].decode()
            image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
            void = stored.get("image/void")
            images.append(image | ({"void": json.loads(void)} if void else {}))
            annotations += [self._coco_annotation(record, image_id) for record in self._objects(stored)]
        categories = [_coco_category(category) for category in self.categories]
        return {"images": images, "annotations": annotations, "categories": categories}

    def labels(self) -> list[np.ndarray]:
        """Returns the labels of each record's objects without crowds, int64 [G]; empty if a record cannot be read.

        This reads the whole split, but decodes no image.
        """
        return [self._labels(index) for index in range(len(self))]

    def _labels(self, index: int) -> np.ndarray:
        try:
            objects = self._read(index)["objects"]
        except DataError:  # counted and reported when the record's batch is read
            return np.zeros(0, np.int64)
        return np.asarray(objects["label"], np.int64)[~np.asarray(objects["is_crowd"], np.bool_)]

    def _read(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"Expected a record index below {len(self)}, got {index}.")
        try:
            return self._records[index]
        except Exception as error:  # as in __init__
            raise DataError(f"{self.path}: record {index} is damaged ({type(error).__name__}); {_remedy()}.") from error

    def _objects(self, stored: dict[str, Any]) -> tuple[ObjectRecord, ...]:
        columns = stored["objects"]
        return tuple(
            _read_object(*row)
            for row in zip(columns["id"], columns["label"], columns["is_crowd"], columns["annotation"], strict=True)
        )

    def _coco_annotation(self, record: ObjectRecord, image_id: int) -> dict[str, Any]:
        annotation = {
            "id": record.id,
            "image_id": image_id,
            "category_id": self.categories[record.label - 1].id,
            "bbox": list(record.bbox),
            "area": record.area,
            "iscrowd": int(record.is_crowd),
        }
        if record.segmentation is not None:
            annotation["segmentation"] = record.segmentation
        num_keypoints = len(self.categories[record.label - 1].keypoints)
        if num_keypoints:
            keypoints = list(record.keypoints) or [0.0] * (3 * num_keypoints)
            visible = sum(value > 0 for value in keypoints[2::3])
            annotation |= {"keypoints": keypoints, "num_keypoints": visible}
        return annotation


def _read_category(entry: dict[str, Any]) -> Category:
    skeleton = tuple((start, end) for start, end in entry["skeleton"])
    return Category(entry["id"], entry["name"], tuple(entry["keypoints"]), skeleton)


def _coco_category(category: Category) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": category.id, "name": category.name}
    if category.keypoints:
        entry |= {"keypoints": list(category.keypoints), "skeleton": [list(pair) for pair in category.skeleton]}
    return entry


def _read_object(object_id: Any, label: Any, is_crowd: Any, annotation: bytes) -> ObjectRecord:
    exact = json.loads(annotation)
    return ObjectRecord(
        id=int(object_id),
        label=int(label),
        bbox=tuple(exact["bbox"]),
        area=exact["area"],
        is_crowd=bool(is_crowd),
        segmentation=exact.get("segmentation") or None,
        keypoints=tuple(exact.get("keypoints") or ()),
    )


def open_dataset(spec: str) -> Dataset:
    """Opens the prepared split `spec`: DIR, or DIR:SPLIT if DIR has several.

    Raises DataError if there is no prepared data, ConfigError if the split is missing or must be chosen.
    """
    folder, split = Path(spec), ""
    if not folder.is_dir() and ":" in spec:
        head, _, split = spec.rpartition(":")
        folder = Path(head)
    if not spec or not folder.is_dir():
        raise DataError(f"No prepared data at {spec!r}; {_remedy()}.")
    if (folder / "metadata.json").is_file() and not split:
        return Dataset(folder)
    found = sorted(path.parent.name for path in folder.glob("*/metadata.json") if not path.parent.name.startswith("."))
    if not found:
        raise DataError(f"No prepared data in {folder}; {_remedy()}.")
    choices = ", ".join(f"{folder}:{name}" for name in found)
    if split and split not in found:
        raise ConfigError(f"{folder} has no split {split!r}; choose one of {choices}.")
    if not split and len(found) > 1:
        raise ConfigError(f"{folder} has several splits; choose one of {choices}.")
    return Dataset(folder / (split or found[0]))
