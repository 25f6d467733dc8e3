"""Images of a source cut into tiles, with their annotations, for training on large images.

What a tile sees of an object is an object of the tile if it is at least MIN_SHARE of the object or covers at least
MIN_COVER of the tile. Smaller remains become regions that are neither learned nor scored, as crowds are: a network that
finds them is not wrong, and an object whose sides are at most the overlap lies in another tile as a whole.
"""

import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mrcnn_jax.data.annotations import clip_bbox, has_mask
from mrcnn_jax.data.bitmaps import decode_window, encode_mask
from mrcnn_jax.data.data_findings import Findings
from mrcnn_jax.data.images import ImageHW, decode_image
from mrcnn_jax.data.mask_boxes import mask_bbox
from mrcnn_jax.data.source import Source, SourceImage
from mrcnn_jax.data.tiles import Window, check_tiling, plan_tiles

MIN_SHARE = 0.25
"""Least share of an object's pixels that a tile sees of it as an object."""

MIN_COVER = 0.01
"""Share of a tile's pixels that an object of the tile may have whatever its own size."""

MIN_PIXELS = 4
"""Remains of fewer pixels are left out."""

CUT = "object is cut at the side of a tile"
REGION = "small remains of an object at the side of a tile are neither learned nor scored"
LEFT_OUT = f"remains of fewer than {MIN_PIXELS} pixels at the side of a tile are dropped"

_NUM_THREADS = 4


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles."""

    tile: int
    """Side of a tile in pixels."""
    overlap: int
    """Least overlap of two tiles in pixels."""
    annotated_only: bool = False
    """Whether tiles without an object are left out."""

    def __post_init__(self) -> None:
        check_tiling(self.tile, self.overlap)

    def apply_to(self, source: Source) -> Source:
        """Returns the source with a fingerprint that depends on the tiles."""
        fingerprint = hashlib.sha256(f"{source.fingerprint} {self}".encode()).hexdigest()
        return replace(source, fingerprint=fingerprint)


class TileCutter:
    """Cuts one image after the other. Tiles and their objects are numbered from 1 over all images."""

    def __init__(self, tiling: Tiling, depth: str) -> None:
        """`depth` is the range of images with more than 8 bits, as in `decode_image`."""
        self._tiling, self._depth = tiling, depth
        self._tile_ids, self._object_ids = itertools.count(1), itertools.count(1)
        self._num_images = self._num_tiles = self._num_empty = 0

    def cut(self, image: SourceImage, findings: Findings) -> Iterator[SourceImage]:
        """Yields the tiles of an image with checked annotations, as PNG, and counts in `findings` what was cut.

        An image that is no larger than a tile keeps its bytes.
        """
        grid = plan_tiles(image.image_hw, self._tiling.tile, self._tiling.overlap)
        self._num_images += len(grid) > 1
        objects = [_Object(annotation, image.image_hw) for annotation in image.annotations]
        parts = [[*_cut_objects(objects, image, window, findings)] for window in grid.windows]
        kept = [
            (window, annotations)
            for window, annotations in zip(grid.windows, parts, strict=True)
            if not self._tiling.annotated_only or any(not each.get("iscrowd") for each in annotations)
        ]
        self._num_empty += len(grid) - len(kept)
        self._num_tiles += len(kept) * (len(grid) > 1)
        if len(grid) == 1:
            encoded: Iterator[bytes] = iter([image.data])
        else:
            encoded = _encode(decode_image(image.data, self._depth).pixels, [window for window, _ in kept])
        for (window, annotations), data in zip(kept, encoded, strict=False):
            y0, y1, x0, x1 = window
            yield SourceImage(
                next(self._tile_ids),
                image.file_name if len(grid) == 1 else f"{image.file_name}[{y0}:{y1},{x0}:{x1}].png",
                data,
                (y1 - y0, x1 - x0),
                tuple(annotation | {"id": next(self._object_ids)} for annotation in annotations),
                void=_cut_void(image, window),
            )

    def notes(self) -> list[str]:
        """Returns how many images were cut, one line each."""
        tile, overlap = self._tiling.tile, self._tiling.overlap
        lines = [f"{self._num_images} images are cut into {self._num_tiles} tiles of {tile} pixels, overlap {overlap}."]
        return lines + [f"{self._num_empty} tiles without objects are left out."] * bool(self._num_empty)


class _Object:
    """An annotation, and its mask inside its box, which is decoded once."""

    def __init__(self, annotation: dict[str, Any], image_hw: ImageHW) -> None:
        self.annotation = annotation
        self.box = clip_bbox(annotation["bbox"], image_hw)
        left, top, right, bottom = self.box
        self.window: Window = (int(top), int(np.ceil(bottom)), int(left), int(np.ceil(right)))
        self.mask: np.ndarray | None = None
        self.num_pixels = (right - left) * (bottom - top)
        if has_mask(annotation):
            left, top, width, height = mask_bbox(annotation["segmentation"], image_hw)
            y0, y1, x0, x1 = self.window  # a file's box may be smaller than the mask
            y0, y1 = min(y0, int(top)), max(y1, int(np.ceil(top + height)))
            x0, x1 = min(x0, int(left)), max(x1, int(np.ceil(left + width)))
            self.window = (y0, y1, x0, x1)
            self.mask = decode_window(annotation["segmentation"], image_hw, self.window)
            self.num_pixels = max(int(self.mask.sum()), 1)


def _cut_objects(
    objects: list[_Object], image: SourceImage, window: Window, findings: Findings
) -> Iterator[dict[str, Any]]:
    """Yields the annotations of what a tile sees, in its pixels."""
    y0, y1, x0, x1 = window
    for each in objects:
        top, bottom, left, right = each.window
        if left >= x1 or right <= x0 or top >= y1 or bottom <= y0:
            continue
        if (y0, x0) == (0, 0) and (y1, x1) == image.image_hw:
            yield each.annotation
            continue
        moved = each.annotation | _moved_keypoints(each.annotation, window)
        if x0 <= left and right <= x1 and y0 <= top and bottom <= y1:
            yield moved | _moved(each, window)
            continue
        of = f"annotation {each.annotation['id']} of image {image.image_id}"
        part, num_pixels = _part(each, window)
        if num_pixels < MIN_PIXELS:
            findings.repair(LEFT_OUT, of)
            continue
        share = num_pixels / each.num_pixels
        cut = moved | part | {"area": each.annotation["area"] * num_pixels / each.num_pixels}
        if not each.annotation.get("iscrowd"):
            is_object = share >= MIN_SHARE or num_pixels >= MIN_COVER * (y1 - y0) * (x1 - x0)
            findings.repair(CUT if is_object else REGION, of)
            cut |= {} if is_object else {"iscrowd": 1, "segmentation": _region(cut, (y1 - y0, x1 - x0))}
        yield cut


def _moved(each: _Object, window: Window) -> dict[str, Any]:
    """Returns box and segmentation of an object inside a tile, in its pixels."""
    y0, _, x0, _ = window
    x, y, width, height = each.annotation["bbox"]
    moved: dict[str, Any] = {"bbox": [x - x0, y - y0, width, height]}
    segmentation = each.annotation.get("segmentation")
    if isinstance(segmentation, list) and each.mask is not None:
        moved["segmentation"] = [
            [side - (x0, y0)[index % 2] for index, side in enumerate(polygon)] for polygon in segmentation
        ]
    elif each.mask is not None:
        moved["segmentation"] = encode_mask(_on_tile(each, window))
    return moved


def _part(each: _Object, window: Window) -> tuple[dict[str, Any], float]:
    """Returns box and segmentation of what a tile sees of an object, in its pixels, and the number of its pixels."""
    y0, y1, x0, x1 = window
    if each.mask is None:
        left, top, right, bottom = each.box
        box = [max(left, x0) - x0, max(top, y0) - y0, min(right, x1) - x0, min(bottom, y1) - y0]
        width, height = box[2] - box[0], box[3] - box[1]
        return {"bbox": [*box[:2], width, height]}, width * height
    mask = _on_tile(each, window)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return {}, 0
    bbox = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    return {"bbox": [float(side) for side in bbox], "segmentation": encode_mask(mask)}, int(mask.sum())


def _on_tile(each: _Object, window: Window) -> np.ndarray:
    """Returns what a tile sees of an object's mask, uint8 [h, w] of the tile's size."""
    assert each.mask is not None
    y0, y1, x0, x1 = window
    top, bottom, left, right = each.window
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    rows, columns = (max(top, y0), min(bottom, y1)), (max(left, x0), min(right, x1))
    part = each.mask[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
    mask[rows[0] - y0 : rows[1] - y0, columns[0] - x0 : columns[1] - x0] = part
    return mask


def _region(cut: dict[str, Any], tile_hw: ImageHW) -> Any:
    """Returns the segmentation of a region; that of an object without a mask is its box, as for crowds."""
    if has_mask(cut):
        return cut["segmentation"]
    x0, y0, x1, y1 = clip_bbox(cut["bbox"], tile_hw)
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def _moved_keypoints(annotation: dict[str, Any], window: Window) -> dict[str, Any]:
    """Returns the keypoints in pixels of a tile, with zeros for those whose pixel is outside of it; {} without any."""
    if not annotation.get("keypoints"):
        return {}
    y0, y1, x0, x1 = window
    points = np.array(annotation["keypoints"], np.float64).reshape(-1, 3) - [x0, y0, 0]
    x, y = points[:, 0] + 0.5, points[:, 1] + 0.5
    inside = (points[:, 2] > 0) & (x >= 0) & (x < x1 - x0) & (y >= 0) & (y < y1 - y0)
    return {"keypoints": np.where(inside[:, None], points, 0.0).ravel().tolist(), "num_keypoints": int(inside.sum())}


def _cut_void(image: SourceImage, window: Window) -> dict[str, Any] | None:
    if image.void is None:
        return None
    part = decode_window(image.void, image.image_hw, window)
    return encode_mask(part) if part.any() else None


def _encode(pixels: np.ndarray, windows: list[Window]) -> Iterator[bytes]:
    """Yields the windows of an image as PNG, which keeps every value. Several threads compress."""
    import cv2

    def encode(window: Window) -> bytes:
        y0, y1, x0, x1 = window
        return cv2.imencode(".png", cv2.cvtColor(pixels[y0:y1, x0:x1], cv2.COLOR_RGB2BGR))[1].tobytes()

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start in range(0, len(windows), 2 * _NUM_THREADS):
            yield from pool.map(encode, windows[start : start + 2 * _NUM_THREADS])
