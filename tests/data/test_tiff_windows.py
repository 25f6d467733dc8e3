"""Windows of TIFF files are those of the image decoded at once, in every layout; what cannot be read is named."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mrcnn_jax.data import tiff_windows
from mrcnn_jax.data.image_windows import ImageWindows, reduce_image
from mrcnn_jax.data.images import ImageError, decode_image
from mrcnn_jax.data.tiff_windows import count_pixels, is_tiff, open_tiff
from mrcnn_jax.errors import DataError
from mrcnn_jax.inference import large_image_files
from mrcnn_jax.inference.image_sources import InputFile
from mrcnn_jax.inference.large_image_files import open_input

IMAGE_HW = (150, 230)
WINDOWS = [(0, 150, 0, 230), (0, 1, 0, 1), (17, 64, 100, 230), (48, 49, 63, 129), (149, 150, 229, 230)]
LAYOUTS = {
    "mapped": {},
    "tiles": {"tile": (48, 64), "compression": "zlib"},
    "strips": {"rowsperstrip": 7, "compression": "lzw"},
    "jpeg": {"tile": (64, 64), "compression": "jpeg", "photometric": "ycbcr"},
    "planes": {"planarconfig": "separate", "tile": (64, 64), "compression": "zlib"},
    "mapped planes": {"planarconfig": "separate"},
    "bigtiff": {"bigtiff": True, "tile": (64, 64), "compression": "zstd"},
    "big-endian": {"byteorder": ">"},
}


def picture(num_channels: int = 3, dtype: str = "uint8", high: int = 255) -> np.ndarray:
    rows, columns = np.ogrid[: IMAGE_HW[0], : IMAGE_HW[1]]
    smooth = np.stack([rows + 0 * columns, columns + 0 * rows, (rows + columns) // 2, rows * 0 + columns], axis=-1)
    return (smooth[..., :num_channels] * high // 230).astype(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_are_those_of_the_decoded_image(tmp_path: Path, layout: str) -> None:
    path, image = tmp_path / "a.tif", picture()
    options = {"photometric": "rgb"} | LAYOUTS[layout]
    values = np.moveaxis(image, -1, 0) if "planes" in layout else image
    tifffile.imwrite(path, values, **options)
    windows = open_tiff(path)
    assert is_tiff(path) and count_pixels(path) == 150 * 230
    assert windows.shape == (*IMAGE_HW, 3) and windows.notes == ()
    whole = tifffile.imread(path) if layout == "jpeg" else image
    for y0, y1, x0, x1 in WINDOWS:
        read = windows[y0:y1, x0:x1]
        assert read.dtype == np.uint8 and (read == whole[y0:y1, x0:x1]).all()


@pytest.mark.parametrize("depth", ["auto", "full", "100,3000"])
@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype,high", [("uint8", 255), ("uint16", 4000), ("float32", 1)])
def test_values_are_scaled_as_for_images_read_at_once(
    tmp_path: Path, num_channels: int, dtype: str, high: int, depth: str
) -> None:
    path = tmp_path / "a.tif"
    image = picture(num_channels, "float64", 10**6) * high / 10**6
    image = (image if dtype == "float32" else np.round(image)).astype(dtype)
    tifffile.imwrite(path, image.squeeze(), photometric="rgb" if num_channels > 2 else "minisblack", planarconfig=1)
    windows = open_tiff(path, depth)
    if num_channels in (1, 3) and (dtype, num_channels) != ("float32", 3):  # the others Pillow and OpenCV do not read
        whole = decode_image(path.read_bytes(), depth)
        assert windows.notes == whole.notes
        assert all((windows[y0:y1, x0:x1] == whole.pixels[y0:y1, x0:x1]).all() for y0, y1, x0, x1 in WINDOWS)
    else:
        colours = open_tiff(path, depth)[:, :]
        assert colours.shape == (*IMAGE_HW, 3) and (num_channels > 2 or (colours[..., 0] == colours[..., 2]).all())


def test_segments_are_held_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, image = tmp_path / "a.tif", picture()
    tifffile.imwrite(path, image, tile=(16, 16), compression="zlib", photometric="rgb")
    monkeypatch.setattr(tiff_windows, "MAX_CACHE_BYTES", 5 * 16 * 16 * 3)
    with tifffile.TiffFile(path) as file:
        segments = tiff_windows._Segments(path, file.pages[0], IMAGE_HW)
    assert (segments(0, 150, 0, 230) == image).all()
    assert len(segments._held) == 5 and segments._held_bytes == 5 * 16 * 16 * 3


def test_several_pages_are_noted_and_missing_tiles_are_black(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        tiles = [np.full((64, 64), 9, np.uint8), None]
        file.write(iter(tiles), shape=(64, 128), dtype="uint8", tile=(64, 64), compression="zlib")
        file.write(picture(1))
    windows = open_tiff(path)
    assert windows.notes == ("several pages or frames, the first is read",)
    assert windows[:, :64].max() == windows[:, :64].min() == 9 and windows[:, 64:].max() == 0


def test_what_cannot_be_read_in_windows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(1).squeeze(), photometric="miniswhite")
    with pytest.raises(ImageError, match="MINISWHITE cannot be read in windows"):
        open_tiff(path)
    tifffile.imwrite(path, picture(1).squeeze(), extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(ImageError, match="turned image"):
        open_tiff(path)
    tifffile.imwrite(path, picture(), photometric="rgb", compression="zlib")
    monkeypatch.setattr(tiff_windows, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="stored in pieces"):
        open_tiff(path)
    monkeypatch.undo()
    tifffile.imwrite(path, np.full(IMAGE_HW, np.nan, np.float32))
    with pytest.raises(ImageError, match="not finite"):
        open_tiff(path)
    tifffile.imwrite(path, picture(), photometric="rgb", tile=(64, 64), compression="zlib")
    damaged = bytearray(path.read_bytes())
    damaged[-300:] = bytes(300)
    path.write_bytes(damaged)
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_tiff(path)[:, :]
    path.write_bytes(damaged[:50])
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_tiff(path)
    assert count_pixels(path) == 0


def test_large_files_are_opened_and_small_ones_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    file = InputFile(path, "a.tif")
    tifffile.imwrite(path, picture(3, "uint16", 4000), photometric="rgb")
    read = open_input(file)
    assert isinstance(read.pixels, np.ndarray)
    monkeypatch.setattr(large_image_files, "LARGE", 1000)
    opened = open_input(file)
    assert isinstance(opened.pixels, ImageWindows) and (opened.pixels[:, :] == read.pixels).all()
    assert opened.notes == read.notes != ()
    tifffile.imwrite(path, picture(1).squeeze(), photometric="miniswhite")  # read at once in the place of windows
    assert isinstance(open_input(file).pixels, np.ndarray)
    monkeypatch.setattr("mrcnn_jax.data.images.MAX_PIXELS", 1000)
    with pytest.raises(DataError, match=r"a\.tif: colours of the kind MINISWHITE"):
        open_input(file)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DataError, match=r"needs tifffile. Install it with: .* pip install \"mrcnn-jax\[large\]\""):
        open_input(file)


@pytest.mark.parametrize("image_hw", [(301, 200), (64, 997), (50, 40)])
def test_reduced_images_are_means_of_areas_in_bands(image_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = np.ogrid[: image_hw[0], : image_hw[1]]
    ramp = rows * 200 / image_hw[0] + columns * 50 / image_hw[1]
    image = np.repeat(np.round(ramp).astype(np.uint8)[..., None], 3, axis=-1)
    monkeypatch.setattr("mrcnn_jax.data.image_windows._BAND_PIXELS", 4000)
    reduced = reduce_image(image, 50)
    assert max(reduced.shape[:2]) == min(50, max(image_hw))
    at = [(np.arange(new) + 0.5) * old / new for new, old in zip(reduced.shape[:2], image_hw, strict=True)]
    expected = (at[0] - 0.5)[:, None] * 200 / image_hw[0] + (at[1] - 0.5)[None] * 50 / image_hw[1]
    assert np.abs(reduced[..., 0] - expected).max() < 2.5
