"""Encoded images: which files may be read, and bytes to RGB pixels in the frame of the annotations."""

import os
import stat
from pathlib import Path

import numpy as np

ImageHW = tuple[int, int]
"""(height, width) in pixels."""


class ImageError(Exception):
    """An image that cannot be used; `reason` is a short fixed text that skips are counted by."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def locate_image(root: Path, file_name: str) -> Path:
    """The regular file that `file_name` names inside the folder `root` (already resolved), links followed.

    Raises ImageError for a missing file, and for a name that leads outside the folder or to a pipe or device.
    """
    try:
        path = Path(os.path.realpath(root / file_name))
        mode = path.stat().st_mode if path.is_relative_to(root) else None
    except FileNotFoundError:
        raise ImageError("image is missing") from None
    except (OSError, ValueError):  # too long, a NUL, not encodable, no permission
        raise ImageError("image cannot be opened") from None
    if mode is None:
        raise ImageError("file name leads outside the image folder")
    if not stat.S_ISREG(mode):
        raise ImageError("image is not a regular file")
    return path


def decode_image(data: bytes, image_hw: ImageHW | None) -> np.ndarray:
    """Pixels [H, W, 3] uint8 RGB of an encoded image of the size `image_hw`; None accepts any size.

    Annotations are drawn on the pixels as stored, without the camera's EXIF rotation (pycocotools' convention). Only
    where the stored pixels do not have the annotated size and the rotated ones do, the rotation is applied.
    Grey images are repeated to three channels, 16-bit ones scaled to 8 bits, alpha is dropped.
    Raises ImageError.
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
