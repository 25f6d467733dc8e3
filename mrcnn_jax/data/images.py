"""Encoded images: locating their files safely, and decoding them in the coordinate frame of the annotations."""

import os
import stat
from pathlib import Path

import numpy as np

ImageHW = tuple[int, int]
"""(height, width) in pixels."""


class ImageError(Exception):
    """An image that cannot be used. Skipped images are counted by `reason`, a short fixed text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def locate_image(root: Path, file_name: str) -> Path:
    """Returns the path of the regular file `file_name` in the folder `root` (already resolved), following links.

    Raises ImageError if the file is missing, or if the name leads outside the folder or to a pipe or device.
    """
    try:
        path = Path(os.path.realpath(root / file_name))
        mode = path.stat().st_mode if path.is_relative_to(root) else None
    except FileNotFoundError:
        raise ImageError("image is missing") from None
    except (OSError, ValueError):  # name too long, with a NUL or not encodable; no permission
        raise ImageError("image cannot be opened") from None
    if mode is None:
        raise ImageError("file name leads outside the image folder")
    if not stat.S_ISREG(mode):
        raise ImageError("image is not a regular file")
    return path


def decode_image(data: bytes, image_hw: ImageHW | None) -> np.ndarray:
    """Returns the pixels [H, W, 3] uint8 RGB of an encoded image of size `image_hw`; None accepts any size.

    Annotations refer to the pixels as stored, without the camera's EXIF rotation (pycocotools' convention). The
    rotation is applied only if the rotated pixels have the annotated size and the stored pixels do not. Grey images
    are repeated to three channels, 16-bit images are scaled to 8 bits, and alpha is dropped. Raises ImageError.
    """
    import cv2

    buffer = np.frombuffer(data, np.uint8)
    for flags in (cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, cv2.IMREAD_COLOR_RGB):
        try:
            image = cv2.imdecode(buffer, flags)
        except cv2.error:  # empty, or more pixels than OpenCV's limit
            image = None
        if image is None:
            raise ImageError("image cannot be decoded")
        if image_hw is None or image.shape[:2] == image_hw:
            return np.asarray(image, np.uint8)
    raise ImageError("size differs from the annotation file")
