"""Encoded images of any origin: locating their files safely, and decoding them to upright 8-bit RGB.

Preparation, training, evaluation and prediction all read images here, so that all of them see the same pixels.
"""

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_jax.config.depth_setting import AUTO_DEPTH
from mrcnn_jax.data.depth import DepthError, scale_depth

ImageHW = tuple[int, int]
"""(height, width) in pixels."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "MPO")
"""Pillow's decoders that may open a file, whatever its suffix; others, such as that of PostScript, run programs."""

_NAMES = "jpg jpeg jpe jfif png bmp webp tif tiff gif avif jp2 j2k ppm pgm pbm pnm mpo"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
"""Suffixes of the files that are read from folders, in lower case."""

MAX_PIXELS = 2**27
"""Larger images are refused after reading the header, since a small file can expand to gigabytes."""

_ORIENTATION_TAG = 0x0112
_EXIF_MARKS = (b"eXIf", b"Raw profile type", b"tiff:Orientation")
_WIDE_MODES = ("I", "F")  # and I;16, I;16B, ...


class ImageError(Exception):
    """An image that cannot be used. Skipped images are counted by `reason`, a short text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about its image before it is decoded."""

    format: str
    stored_hw: ImageHW
    orientation: int  # EXIF, 1..8; 1 is upright
    num_frames: int  # pages of a TIFF, frames of an animation
    is_deep: bool = False  # more than 8 bits a channel

    @property
    def image_hw(self) -> ImageHW:
        """Size of the upright image."""
        return upright_hw(self.stored_hw, self.orientation)


@dataclass(frozen=True)
class DecodedImage:
    """Upright pixels, and what was decided to get them."""

    pixels: np.ndarray  # [H, W, 3] uint8 RGB
    notes: tuple[str, ...]  # short texts, for counting


def upright_hw(stored_hw: ImageHW, orientation: int) -> ImageHW:
    """Returns the size of an image after its EXIF orientation has been applied."""
    return stored_hw[::-1] if orientation >= 5 else stored_hw


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns the stored pixels [H, W] or [H, W, C] after their EXIF orientation has been applied."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def turn_as_stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns upright pixels [H, W] or [H, W, C] as they are stored: the inverse of `turn_upright`."""
    inverse = {6: 8, 8: 6}  # the other orientations undo themselves
    return turn_upright(pixels, inverse.get(orientation, orientation))


def locate_image(root: Path, file_name: str) -> Path:
    """Returns the path of the regular file `file_name` in the folder `root` (already resolved), following links.

    Raises ImageError if the file is missing, or if the name leads outside the folder or to a pipe or device.
    """
    try:
        path = Path(os.path.realpath(root / file_name))
        mode = path.stat().st_mode if path.is_relative_to(root) else None
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("image is missing") from None
    except (OSError, ValueError):  # name too long, with a NUL or not encodable; no permission
        raise ImageError("image cannot be opened") from None
    if mode is None:
        raise ImageError("file name leads outside the image folder")
    if not stat.S_ISREG(mode):
        raise ImageError("image is not a regular file")
    return path


def read_size(data: bytes) -> ImageHW:
    """Returns the size of an encoded image, which need not be upright, and decodes no pixel. Raises ImageError."""
    image = _open_lazily(data)
    with image:
        width, height = image.size
    return height, width


def read_header(data: bytes) -> ImageHeader:
    """Returns the header of an encoded image. Raises ImageError if it is none, or too large.

    Decodes the pixels of a PNG that may contain EXIF.
    """
    header, image = _open(data)
    image.close()
    return header


def decode_image(data: bytes, depth: str = AUTO_DEPTH) -> DecodedImage:
    """Decodes an image to upright 8-bit RGB, as an image viewer shows it.

    The EXIF orientation is applied. Grey images are repeated to three channels, alpha is dropped, CMYK is converted,
    and more than 8 bits are scaled as `depth` says (see data/depth.py). Of several pages or frames the first is read.
    Raises ImageError.
    """
    header, image = _open(data)
    notes = []
    try:
        with image:
            if header.num_frames > 1:
                notes.append("several pages or frames, the first is read")
            values = _decode(data, image, header)
        if values.dtype != np.uint8:
            values, note = scale_depth(values, depth)
            notes += [note] * bool(note)
    except ImageError:
        raise
    except DepthError as error:
        raise ImageError(str(error)) from None
    except MemoryError:
        raise
    except Exception:  # decoders raise arbitrary exceptions on damaged files
        raise ImageError("image cannot be decoded") from None
    if values.ndim == 2:
        values = np.repeat(values[:, :, None], 3, axis=2)
    if header.format != "TIFF":  # the decoders of TIFF apply the orientation themselves
        values = turn_upright(values, header.orientation)
    return DecodedImage(values, tuple(notes))


def _open_lazily(data: bytes) -> Any:
    """Returns Pillow's image, of which only the header has been read."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(f"image has more than {MAX_PIXELS // 10**6} million pixels")
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"image has more than {MAX_PIXELS // 10**6} million pixels") from None
    except MemoryError:
        raise
    except Exception:  # decoders raise arbitrary exceptions on damaged files
        raise ImageError("image cannot be decoded") from None
    return image


def _open(data: bytes) -> tuple[ImageHeader, Any]:
    image = _open_lazily(data)
    width, height = image.size
    try:
        # Pillow decodes a whole PNG to look for EXIF.
        may_have_exif = image.format != "PNG" or any(mark in data for mark in _EXIF_MARKS)
        orientation = image.getexif().get(_ORIENTATION_TAG, 1) if may_have_exif else 1
    except Exception:  # a damaged EXIF block does not spoil the image
        orientation = 1
    try:
        num_frames = int(getattr(image, "n_frames", 1)) if image.format != "MPO" else 1  # a preview beside a photograph
    except MemoryError:
        raise
    except Exception:
        raise ImageError("image cannot be decoded") from None
    if orientation not in range(1, 9):
        orientation = 1
    image_hw = (height, width)
    stored_hw = upright_hw(image_hw, orientation) if image.format == "TIFF" else image_hw  # a TIFF's size is upright
    is_deep = _is_wide(image) or _is_deep(data, image)
    return ImageHeader(image.format or "", stored_hw, orientation, num_frames, is_deep), image


def _decode(data: bytes, image: Any, header: ImageHeader) -> np.ndarray:
    """Returns the pixels as stored, but upright for TIFF: uint8 [H, W, 3] or, with more bits, [H, W] or [H, W, 3]."""
    import cv2

    buffer = np.frombuffer(data, np.uint8)
    if header.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):  # the same pixels as Pillow's in less time
        return _checked(cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION))
    if _is_wide(image):
        image.load()
        return np.asarray(image)
    if _is_deep(data, image):
        values = _checked(cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED))  # other flags corrupt TIFFs with 16 bits
        if values.dtype != np.uint8 and values.ndim == 3:
            return np.ascontiguousarray(values[:, :, 2::-1])  # BGR or BGRA
    image.load()
    image.info.pop("transparency", None)  # Pillow warns when it drops the transparency of a palette
    return np.asarray(image.convert("RGB"))


def _checked(values: np.ndarray | None) -> np.ndarray:
    if values is None:
        raise ImageError("image cannot be decoded")
    return np.asarray(values)


def _is_wide(image: Any) -> bool:
    """Returns whether Pillow gives the values of an image of one channel with more than 8 bits."""
    return image.mode in _WIDE_MODES or image.mode.startswith("I;16")


def _is_deep(data: bytes, image: Any) -> bool:
    """Returns whether a colour image has more than 8 bits a channel, of which Pillow keeps 8."""
    if image.format == "PNG":
        return data[24] > 8  # the depth in the header
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,))) > 8
    return False
