"""What the checks need of one image: its header, a fingerprint of its pixels, a thumbnail, and its objects."""

import hashlib
import re
from dataclasses import dataclass

import cv2
import numpy as np

from mrcnn_jax.config.depth_setting import parse_depth
from mrcnn_jax.data.dataset import Dataset
from mrcnn_jax.data.images import ImageError, ImageHW, decode_image, read_header
from mrcnn_jax.errors import DataError
from mrcnn_jax.inspection.object_facts import ObjectFacts, measure_objects

THUMBNAIL_SIDE = 64
EIGHT_BITS = "0..255"
_SCALED_FROM = re.compile(r"values scaled from (\S+)")  # note of data/depth.py


@dataclass(frozen=True)
class ImageFacts:
    """One image of a split. Pixels are those that the model gets, before its resize."""

    image_id: int
    file_name: str
    image_hw: ImageHW
    objects: ObjectFacts
    fault: str = ""  # why the image cannot be read; the following fields then have no meaning
    orientation: int = 1  # EXIF
    num_frames: int = 1
    value_range: str = EIGHT_BITS  # which values become 0..255
    contrast: float = 0.0  # standard deviation of the grey values, 0..127
    digest: bytes = b""  # of size and pixels
    thumbnail: np.ndarray | None = None  # [64, 64] int8: grey values minus their mean, scaled to -127..127

    @property
    def is_deep(self) -> bool:
        """Whether the image has more than 8 bits a channel."""
        return self.value_range != EIGHT_BITS


def measure_image(dataset: Dataset, index: int) -> ImageFacts:
    """Returns the facts of record `index`. An image that cannot be read or decoded is returned with its fault."""
    image_hw = (int(dataset.sizes[index, 0]), int(dataset.sizes[index, 1]))
    try:
        record = dataset.read_encoded(index)
    except DataError:
        return ImageFacts(
            int(dataset.image_ids[index]), "", image_hw, measure_objects((), image_hw), "record is damaged"
        )
    objects = measure_objects(record.objects, image_hw)
    try:
        header = read_header(record.data)
        pixels = dataset.decode(record.data, index)
        value_range = _find_range(record.data, dataset.depth) if header.is_deep else EIGHT_BITS
    except (DataError, ImageError) as error:
        reason = error.reason if isinstance(error, ImageError) else str(error).rpartition(": ")[2].rstrip(".")
        return ImageFacts(record.image_id, record.file_name, image_hw, objects, reason)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16)
    digest.update(str(pixels.shape).encode())
    return ImageFacts(
        record.image_id,
        record.file_name,
        image_hw,
        objects,
        orientation=header.orientation,
        num_frames=header.num_frames,
        value_range=value_range,
        contrast=float(cv2.meanStdDev(grey)[1][0, 0]),
        digest=digest.digest(),
        thumbnail=make_thumbnail(grey),
    )


def make_thumbnail(grey: np.ndarray) -> np.ndarray:
    """Returns a grey image [H, W] uint8 as a thumbnail [64, 64] int8, whose brightness and contrast are normalised."""
    small = cv2.resize(grey.astype(np.float32), (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    small -= small.mean()
    return np.round(small * (127 / max(float(np.abs(small).max()), 1e-3))).astype(np.int8)


def _find_range(data: bytes, depth: str) -> str:
    """Returns which values of an image of more than 8 bits a channel become 0..255, such as `0..4095 of 16 bits`."""
    given = parse_depth(depth)
    if given is not None:
        return f"{given[0]:g}..{given[1]:g} (--depth)"
    scaled = [match for note in decode_image(data, depth).notes if (match := _SCALED_FROM.match(note))]
    return f"{scaled[0][1]} of 16 bits" if scaled else "the full range of 16 bits or of 0..1"
