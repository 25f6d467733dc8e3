"""Opens image files to be predicted in tiles: large TIFF files window by window, all others at once."""

from mrcnn_jax.config.depth_setting import AUTO_DEPTH
from mrcnn_jax.data.image_windows import OpenedImage
from mrcnn_jax.data.images import MAX_PIXELS, DecodedImage, ImageError
from mrcnn_jax.data.tiff_windows import count_pixels, is_tiff, open_tiff
from mrcnn_jax.errors import DataError, missing_extra
from mrcnn_jax.inference.image_files import decode_input
from mrcnn_jax.inference.image_sources import InputFile

LARGE = 2**24
"""TIFF files with more pixels are read window by window."""


def open_input(file: InputFile, data: bytes | None = None, *, depth: str = AUTO_DEPTH) -> DecodedImage | OpenedImage:
    """Returns an image as `decode_input` does, or with windows as its pixels if it is a TIFF of more than LARGE pixels.

    What `open_tiff` cannot read, and files in archives, are decoded at once, up to MAX_PIXELS. Raises DataError if the
    file cannot be read.
    """
    reason = ""
    try:
        if file.archive is None and is_tiff(file.path) and count_pixels(file.path) > LARGE:
            windows = open_tiff(file.path, depth)
            return OpenedImage(windows, windows.notes)
    except ImportError:
        need = f"reading TIFF files of more than {MAX_PIXELS // 10**6} million pixels needs tifffile"
        reason = str(missing_extra(need, "large")).rstrip(".")
    except ImageError as error:
        reason = error.reason
    try:
        return decode_input(file, data, depth=depth)
    except DataError:
        if not reason:
            raise
        raise DataError(f"{file.label}: {reason}.") from None
