"""Image files of unknown origin become uint8 RGB arrays, upright as a viewer shows them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mrcnn_jax.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""File names that folders are searched for."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
"""Decoders that may see a file, whatever its name: others, such as PostScript's, run programs."""
MAX_PIXELS = 50_000_000
"""Larger images are refused from their header: a small file can claim gigabytes."""


def read_image(path: Path) -> np.ndarray:
    """Pixels [H, W, 3] uint8 RGB in the displayed frame: the EXIF orientation is applied.

    Grey is repeated, alpha dropped, CMYK converted; 16-bit values lose their low byte, float values of 0..1 are scaled.
    Of several frames or pages it is the first. Raises DataError.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing or not a regular file.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path} has {image.width} x {image.height} pixels, allowed are {MAX_PIXELS // 10**6} million. "
                    "Scale it down."
                )
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} claims too many pixels. Scale it down.") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path} is no image, or not in a format of {', '.join(FORMATS)}.") from error
    except MemoryError:
        raise
    except Exception as error:  # what decoders raise on damaged files is theirs to choose
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"{path} cannot be decoded ({reason}).") from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """A decoded Pillow image of any mode as uint8 RGB [H, W, 3]; ValueError where the range of its values is unclear.

    Pillow's own conversion turns every pixel of 16-bit, integer and float images white.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "F":
            if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
                raise ValueError("float values beyond 0..1: store the image with 8 or 16 bits")
            grey = np.round(values * 255.0).astype(np.uint8)
        elif values.min() >= 0 and values.max() < 2**16:
            grey = (values >> 8).astype(np.uint8)
        else:
            raise ValueError("integer values beyond 16 bits: store the image with 8 or 16 bits")
        return np.repeat(grey[:, :, None], 3, axis=2)
    image.info.pop("transparency", None)  # Pillow warns when it drops a palette's
    return np.asarray(image.convert("RGB"))
