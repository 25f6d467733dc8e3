"""Reads image files of unknown origin as uint8 RGB arrays, upright as in an image viewer."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mrcnn_jax.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Suffixes of the files that are read from folders."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
"""Decoders that may open a file, whatever its suffix; others, such as the one for PostScript, run programs."""
MAX_PIXELS = 50_000_000
"""Larger images are refused after reading the header, since a small file can expand to gigabytes."""


def read_image(path: Path) -> np.ndarray:
    """Returns the pixels [H, W, 3] as uint8 RGB, with the EXIF orientation applied.

    Grey is repeated, alpha is dropped, CMYK is converted, 16-bit values lose their low byte, and float values of 0..1
    are scaled. Of several frames or pages the first is read. Raises DataError if the file cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing or not a regular file.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path} has {image.width} x {image.height} pixels; at most {MAX_PIXELS // 10**6} million are "
                    "allowed. Scale it down."
                )
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} has too many pixels. Scale it down.") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image in one of the formats {', '.join(FORMATS)}.") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise arbitrary exceptions on damaged files
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"{path} cannot be decoded ({reason}).") from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Returns a decoded Pillow image of any mode as uint8 RGB [H, W, 3]; ValueError if its values' range is unclear.

    Pillow's own conversion clips 16-bit, integer and float values at 255 instead of scaling them.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "F":
            if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
                raise ValueError("its float values are outside of 0..1; store it with 8 or 16 bits")
            grey = np.round(values * 255.0).astype(np.uint8)
        elif values.min() >= 0 and values.max() < 2**16:
            grey = (values >> 8).astype(np.uint8)
        else:
            raise ValueError("its integer values do not fit into 16 bits; store it with 8 or 16 bits")
        return np.repeat(grey[:, :, None], 3, axis=2)
    image.info.pop("transparency", None)  # Pillow warns when it drops the transparency of a palette
    return np.asarray(image.convert("RGB"))
