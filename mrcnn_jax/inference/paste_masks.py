"""Pasting of box-relative mask probabilities into the image (NumPy float32).

With the method "grid", the m x m probabilities span their box. A pixel takes the bilinear value at its centre, with
zeros outside of the grid, and belongs to the object at or above the threshold, as in Detectron2. With "integer_box",
the grid with a border of zeros is resized to the box in whole pixels, and a pixel belongs to the object above the
threshold, as in torchvision.

Interpolation is separable, so one mask takes two small matrix products over the box's window of pixels. Detections are
pasted one at a time, so that a run-length code never needs a whole mask of the image.

Shapes: n detections, m mask side, H W image, h w window.
"""

import math
from typing import Any, Literal

import numpy as np

Method = Literal["grid", "integer_box"]
Window = tuple[int, int, int, int]
"""Rows y0 to y1 and columns x0 to x1 of an image, half-open: (y0, y1, x0, x1)."""


def interpolation_matrix(start: float, stop: float, size: int, first: int, last: int) -> np.ndarray:
    """Returns weights [last - first, size] float32 that sample `size` cells over start..stop at pixels first..last-1.

    Cell centres lie at (i + 0.5) / size of the way from start to stop, pixel centres at +0.5. Beyond the outermost
    centres, values fade linearly to zero within one cell (bilinear sampling with zero padding, corners not aligned).
    """
    pixels = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    positions = (pixels - np.float32(start)) * np.float32(size / (stop - start)) - np.float32(0.5)  # [last - first]
    distance = np.abs(positions[:, None] - np.arange(size, dtype=np.float32))  # [last - first, size]
    return np.maximum(np.float32(1.0) - distance, np.float32(0.0))


def paste_window(
    mask: np.ndarray, box: np.ndarray, image_hw: tuple[int, int], threshold: float, method: Method = "grid"
) -> tuple[np.ndarray, Window]:
    """Returns the object's pixels, bool [h, w], and the window of pixels that the box touches, clipped to the image.

    `mask` is [m, m] probabilities, `box` is x0, y0, x1, y1 in pixels of the image. An empty box has an empty window.
    """
    paste = _paste_grid if method == "grid" else _paste_integer_box
    return paste(mask.astype(np.float32), box, image_hw, threshold)


def _paste_grid(
    mask: np.ndarray, box: np.ndarray, image_hw: tuple[int, int], threshold: float
) -> tuple[np.ndarray, Window]:
    height, width = image_hw
    x0, y0, x1, y1 = (float(side) for side in box)
    rows = max(math.floor(y0), 0), min(math.ceil(y1), height)
    columns = max(math.floor(x0), 0), min(math.ceil(x1), width)
    if x1 <= x0 or y1 <= y0 or rows[1] <= rows[0] or columns[1] <= columns[0]:
        return np.zeros((0, 0), dtype=bool), (0, 0, 0, 0)
    in_y = interpolation_matrix(y0, y1, mask.shape[0], *rows)  # [h, m]
    in_x = interpolation_matrix(x0, x1, mask.shape[1], *columns)  # [w, m]
    return in_y @ mask @ in_x.T >= threshold, (*rows, *columns)


def _paste_integer_box(
    mask: np.ndarray, box: np.ndarray, image_hw: tuple[int, int], threshold: float
) -> tuple[np.ndarray, Window]:
    padded = np.pad(mask, 1)
    box = np.asarray(box, np.float32)
    centre, half = (box[:2] + box[2:]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5)
    half = half * np.float32(len(padded) / len(mask))
    start = (centre - half).astype(np.int64)  # truncated towards zero
    stop = np.maximum((centre + half).astype(np.int64) + 1, start + 1)
    (x0, y0), (x1, y1) = np.maximum(start, 0).tolist(), np.minimum(stop, image_hw[::-1]).tolist()
    if x1 <= x0 or y1 <= y0:
        return np.zeros((0, 0), dtype=bool), (0, 0, 0, 0)
    in_x, in_y = (
        _resize_matrix(int(stop[axis] - start[axis]), len(padded), first - int(start[axis]), last - int(start[axis]))
        for axis, first, last in ((0, x0, x1), (1, y0, y1))
    )
    return in_y @ padded @ in_x.T > threshold, (y0, y1, x0, x1)


def _resize_matrix(length: int, size: int, first: int, last: int) -> np.ndarray:
    """Returns weights [last - first, size] that resize `size` cells bilinearly to `length`, at pixels first..last-1."""
    scale = np.float32(size / length)
    positions = (np.arange(first, last, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    positions = np.clip(positions, np.float32(0.0), np.float32(size - 1))
    distance = np.abs(positions[:, None] - np.arange(size, dtype=np.float32))
    return np.maximum(np.float32(1.0) - distance, np.float32(0.0))


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, image_hw: tuple[int, int], threshold: float, method: Method = "grid"
) -> np.ndarray:
    """Returns masks of the image, bool [n, H, W], from [n, m, m] probabilities and [n, 4] boxes in image pixels."""
    pasted = np.zeros((len(boxes), *image_hw), dtype=bool)
    for canvas, mask, box in zip(pasted, masks, boxes, strict=True):
        window, (y0, y1, x0, x1) = paste_window(mask, box, image_hw, threshold, method)
        canvas[y0:y1, x0:x1] = window
    return pasted


def encode_masks(
    masks: np.ndarray, boxes: np.ndarray, image_hw: tuple[int, int], threshold: float, method: Method = "grid"
) -> list[dict[str, Any]]:
    """Returns the masks of `paste_masks` as compressed COCO run-length codes {"size": [H, W], "counts": str}."""
    return [
        encode_window(*paste_window(mask, box, image_hw, threshold, method), image_hw)
        for mask, box in zip(masks, boxes, strict=True)
    ]


def encode_window(window: np.ndarray, place: Window, image_hw: tuple[int, int]) -> dict[str, Any]:
    """Returns the compressed COCO run-length code of a mask that is zero outside of one window.

    Time and memory depend on the window alone, not on the image.
    """
    from pycocotools import mask as coco_mask

    height, width = image_hw
    y0, y1, x0, x1 = place
    columns = np.zeros((x1 - x0, y1 - y0 + 2), dtype=bool)  # runs go down the columns
    columns[:, 1:-1] = window.T
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    edges = (column + x0) * height + row + y0
    # A run that goes on in the next column, in a window of full height, ends and starts at one place.
    goes_on = edges[1:] == edges[:-1]
    edges = edges[~(np.append(goes_on, False) | np.append(False, goes_on))] if len(edges) else edges
    edges = np.concatenate([[0], edges, [height * width]])
    runs = edges[1:] - edges[:-1]
    if len(runs) > 1 and runs[-1] == 0:
        runs = runs[:-1]  # the object reaches the last pixel
    code = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}
