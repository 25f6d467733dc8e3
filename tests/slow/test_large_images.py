"""An image of 10,000 x 10,000 pixels in tiles: objects on seams, and time over four sizes.

    python -m pytest -m slow -s tests/slow/test_large_images.py

Takes about four minutes and 5 GB on one shared CPU core, and prints what it measures.
"""

import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mrcnn_jax.data.tiff_windows import open_tiff
from mrcnn_jax.data.tiles import plan_tiles
from mrcnn_jax.inference import tiled_predictor
from mrcnn_jax.inference.mask_crops import MaskCrop
from mrcnn_jax.inference.tiled_predictor import TiledPredictor
from tests.inference.ideal_detector import IdealDetector, objects_of, paint, read_numbers

TILE, OVERLAP = 1024, 128
SIDES = (1250, 2500, 5000, 10000)
CELL = 50
"""Pixels of the image for each object, along both axes."""


def draw_ellipses(side: int) -> np.ndarray:
    """Numbers int32 [side, side] of ellipses of 8 to 90 pixels; those drawn later hide others in part."""
    rng = np.random.default_rng(0)
    numbers = np.zeros((side, side), np.int32)
    count = (side // CELL) ** 2
    for number, center, radii in zip(
        range(1, count + 1), rng.uniform(0, side, (count, 2)), rng.uniform(4, 45, (count, 2)), strict=True
    ):
        (y0, x0), (y1, x1) = np.maximum(center - radii, 0).astype(int), np.minimum(center + radii + 1, side).astype(int)
        y, x = np.ogrid[y0:y1, x0:x1]
        inside = ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 < 1
        numbers[y0:y1, x0:x1][inside] = number
    return numbers


def is_on_seam(crop: MaskCrop, cuts: list[int]) -> bool:
    y0, y1, x0, x1 = crop.window
    return any(y0 < cut < y1 or x0 < cut < x1 for cut in cuts)


@pytest.mark.slow
def test_objects_on_seams_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: dict[int, float] = {}
    merge = tiled_predictor.merge_tiles
    for side in SIDES:
        numbers = draw_ellipses(side)
        truth = objects_of(numbers)
        path = tmp_path / "large.tif"
        starts = range(0, side, 512)
        tiles = (np.ascontiguousarray(paint(numbers[y : y + 512, x : x + 512])) for y in starts for x in starts)
        layout = {"tile": (512, 512), "compression": "zlib", "photometric": "rgb"}
        tifffile.imwrite(path, tiles, shape=(side, side, 3), dtype="uint8", **layout)

        def timed(*arguments, side=side):
            start = time.process_time()
            merged = merge(*arguments)
            seconds[side] = time.process_time() - start
            return merged

        monkeypatch.setattr(tiled_predictor, "merge_tiles", timed)
        image = open_tiff(path)
        (found,) = TiledPredictor(IdealDetector(batch_size=1, max_detections=1000), TILE, OVERLAP)([image], ["large"])
        crops: dict[int, list[MaskCrop]] = {}
        for crop in map(found.crop, range(len(found))):
            y, x = np.argwhere(crop.pixels)[0] + (crop.window[0], crop.window[2])
            crops.setdefault(int(read_numbers(image[y : y + 1, x : x + 1])[0, 0]), []).append(crop)
        cuts = [edge for interval in plan_tiles((side, side), TILE, OVERLAP).rows for edge in interval]
        on_seams = [number for number, crop in truth.items() if is_on_seam(crop, cuts)]
        exact = [
            number
            for number in truth
            if [(crop.window, crop.area) for crop in crops.get(number, [])]
            == [(truth[number].window, truth[number].area)]
        ]
        share = len(set(exact) & set(on_seams)) / len(on_seams)
        print(
            f"\n{side} x {side}: {len(truth)} objects, {len(exact)} exact; {len(on_seams)} on seams, {share:.2%} exact;"
            f" merging {seconds[side]:.2f} s"
        )
        assert share >= 0.98 and len(exact) >= 0.98 * len(truth)
    assert len(on_seams) >= 500
    # Sixty-four times the area; a quadratic merge would take 4096 times as long.
    assert seconds[10000] < 3 * 64 * max(seconds[1250], 0.01)
