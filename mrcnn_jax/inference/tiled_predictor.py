"""Prediction of large images in tiles: a predictor that sees one tile at a time, and merges what it finds."""

from collections.abc import Iterator, Sequence
from threading import Lock

import numpy as np

from mrcnn_jax.data.image_windows import ImageWindows, reduce_image
from mrcnn_jax.data.images import ImageError, ImageHW
from mrcnn_jax.data.tiles import TileGrid, check_tiling, plan_tiles
from mrcnn_jax.errors import DataError
from mrcnn_jax.inference.postprocessing import ImageDetections, concatenate
from mrcnn_jax.inference.prediction_stream import ImagePredictor
from mrcnn_jax.inference.predictor import check_image
from mrcnn_jax.inference.tile_merging import merge_tiles
from mrcnn_jax.inference.whole_view import add_large_objects

BATCHES_HELD = 4
"""Number of batches of tiles that are read before their prediction."""


class TiledPredictor:
    """Detects objects in images of any size, in overlapping tiles: `TiledPredictor(Predictor.load(DIR))(images)`.

    Each tile is resized as an image of its size is by the predictor; choose the tile so that objects have the size, in
    pixels of the network input, that they had in training. Images that are no larger than a tile are predicted as
    without tiles. `test.max_detections` limits the detections of a tile, not those of an image.
    """

    def __init__(self, predictor: ImagePredictor, tile: int = 1024, overlap: int = 128, num_devices: int = 1) -> None:
        """Predicts tiles with `predictor`.

        Args:
            predictor: a Predictor, or anything that is called like one.
            tile: side of a tile in pixels of the image.
            overlap: least overlap of two tiles in pixels. Objects with no longer side are seen as a whole by a tile.
            num_devices: devices of the predictor.

        Raises ConfigError if the overlap exceeds half of a tile.
        """
        check_tiling(tile, overlap)
        self.test_config = predictor.test_config
        self.categories = predictor.categories
        self.num_full_tiles = 0
        """Tiles so far with as many detections as `test.max_detections` allows, in which more may have been found."""
        self._predictor = predictor
        self._tile, self._overlap = tile, overlap
        self._held = BATCHES_HELD * num_devices * predictor.test_config.batch_size
        self._lock = Lock()

    def __call__(
        self, images: Sequence[np.ndarray | ImageWindows], names: Sequence[str] | None = None
    ) -> list[ImageDetections]:
        """Returns the detections of each image, best first, in the order of the images.

        Args:
            images: list of uint8 RGB arrays [H, W, 3] of any size, or images that are read window by window.
            names: names of the images for a NumericalError; images[0], images[1], ... by default.

        Raises ValueError, NumericalError: as `Predictor`. DataError: a part of an image cannot be read.
        """
        names = names or [f"images[{index}]" for index in range(len(images))]
        checked = [
            image if isinstance(image, ImageWindows) else check_image(image, index)
            for index, image in enumerate(images)
        ]
        is_small = [max(image.shape[:2]) <= self._tile for image in checked]
        large = [
            None if only else self._predict_large(image, name)
            for image, name, only in zip(checked, names, is_small, strict=True)
        ]
        small = [(_read(image, name), name) for image, name, only in zip(checked, names, is_small, strict=True) if only]
        found = iter(self._predictor([image for image, _ in small], [name for _, name in small]) if small else [])
        return [next(found) if each is None else each for each in large]

    def warm_up(self) -> None:
        """Compiles for every canvas, if the predictor does."""
        getattr(self._predictor, "warm_up", lambda: None)()

    def _predict_large(self, image: np.ndarray | ImageWindows, name: str) -> ImageDetections:
        image_hw: ImageHW = (image.shape[0], image.shape[1])
        grid = plan_tiles(image_hw, self._tile, self._overlap)
        try:
            reduced = reduce_image(image, self.test_config.max_side)
            parts = list(self._predict_tiles(image, grid, name))
        except ImageError as error:
            raise DataError(f"{name}: {error.reason}.") from None
        tile_of = np.repeat(np.arange(len(grid)), [len(part) for part in parts])
        merged = merge_tiles(concatenate(parts), tile_of, grid)
        (whole,) = self._predictor([reduced], [f"{name} (reduced)"])
        found = add_large_objects(merged, whole, self._overlap)
        return found.select(np.argsort(-found.scores, kind="stable"))

    def _predict_tiles(self, image: np.ndarray | ImageWindows, grid: TileGrid, name: str) -> Iterator[ImageDetections]:
        """Yields the detections of each tile, in pixels of the image."""
        for start in range(0, len(grid), self._held):
            windows = grid.windows[start : start + self._held]
            tiles = [np.ascontiguousarray(image[y0:y1, x0:x1]) for y0, y1, x0, x1 in windows]
            labels = [f"{name} (rows {y0}:{y1}, columns {x0}:{x1})" for y0, y1, x0, x1 in windows]
            for found, (y0, _, x0, _) in zip(self._predictor(tiles, labels), windows, strict=True):
                with self._lock:
                    self.num_full_tiles += len(found) >= self.test_config.max_detections
                yield found.moved(y0, x0, grid.image_hw)


def _read(image: np.ndarray | ImageWindows, name: str) -> np.ndarray:
    try:
        return image[:, :]
    except ImageError as error:
        raise DataError(f"{name}: {error.reason}.") from None
