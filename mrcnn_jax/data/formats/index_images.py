"""Images whose pixel values are numbers of objects or classes: indexed, grey with 8 to 32 bits, or colours."""

import io

import numpy as np

from mrcnn_jax.data.formats.dataset_files import FileFault
from mrcnn_jax.data.images import FORMATS, MAX_PIXELS

_LOSSY = ("JPEG", "MPO", "WEBP")


def read_index_image(data: bytes) -> np.ndarray:
    """Returns the numbers [H, W], integers: of an indexed image the indices, of colours red + 256 green + 65536 blue.

    Raises FileFault if the image cannot be decoded, or has no exact values.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.format in _LOSSY:
                raise FileFault("mask is an image of a lossy format")
            if image.width * image.height > MAX_PIXELS:
                raise FileFault("mask has too many pixels")
            if image.mode in ("LA", "RGBA", "PA"):
                values = np.asarray(image.convert({"LA": "L", "RGBA": "RGB", "PA": "P"}[image.mode]))
            else:
                values = np.asarray(image)
    except FileFault:
        raise
    except MemoryError:
        raise
    except Exception:  # decoders raise arbitrary exceptions on damaged files
        raise FileFault("mask cannot be decoded") from None
    if values.ndim == 3 and values.shape[2] == 3:
        wide = values.astype(np.int64)
        return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
    if values.ndim != 2:
        raise FileFault("mask cannot be decoded")
    if np.issubdtype(values.dtype, np.integer):
        return values
    if not np.array_equal(values, np.round(values)):  # of booleans, too
        raise FileFault("mask has values that are not integers")
    return values.astype(np.int64)
