"""Every mode and orientation of image file gives the right pixels, and what is no image is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mrcnn_jax.errors import DataError
from mrcnn_jax.inference.image_files import read_image

RNG = np.random.default_rng(0)
SMOOTH = np.stack(np.meshgrid(np.linspace(0, 255, 40), np.linspace(255, 0, 24)), -1)
RGB = np.concatenate([SMOOTH, SMOOTH.mean(-1, keepdims=True)], -1).astype(np.uint8)  # [24, 40, 3]


def read(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "a.jpg", "a.JPEG", "a.unknown"])
def test_formats(tmp_path, name):
    options = {"a.webp": {"lossless": True}, "a.unknown": {"format": "PNG"}}.get(name, {})
    pixels = read(tmp_path, Image.fromarray(RGB), name, **options)
    assert pixels.dtype == np.uint8 and pixels.shape == (24, 40, 3)
    tolerance = 12 if "j" in name.lower() else 0  # JPEG loses
    assert np.abs(pixels.astype(int) - RGB).max() <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA"])
def test_modes_drop_alpha_and_repeat_grey(tmp_path, mode):
    image = Image.fromarray(RGB).quantize(64) if mode in ("P", "PA") else Image.fromarray(RGB)
    expected = np.asarray(image.convert("1" if mode == "1" else "L" if mode in ("L", "LA") else "RGB").convert("RGB"))
    if mode in ("LA", "RGBA", "PA"):
        image = image.convert("L" if mode == "LA" else image.mode).convert(mode if mode != "PA" else "RGBA")
        image.putalpha(Image.fromarray(RNG.integers(0, 256, (24, 40)).astype(np.uint8)))
    else:
        image = image.convert(mode)
    options = {"transparency": bytes(range(64))} if mode == "P" else {}
    pixels = read(tmp_path, image, "a.png", **options)
    np.testing.assert_array_equal(pixels, expected)


def test_cmyk_is_converted(tmp_path):
    image = Image.new("CMYK", (40, 24), (0, 128, 255, 64))
    expected = [255 * (1 - ink / 255) * (1 - 64 / 255) for ink in (0, 128, 255)]
    assert np.abs(read(tmp_path, image, "a.tif") - np.array(expected)).max() <= 2


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_lose_their_low_byte(tmp_path, name):
    values = RNG.integers(0, 2**16, (24, 40)).astype(np.uint16)
    pixels = read(tmp_path, Image.fromarray(values), name)
    np.testing.assert_array_equal(pixels, np.repeat((values // 256)[..., None], 3, 2))


def test_integer_and_float_images_are_scaled_or_refused(tmp_path):
    values = RNG.integers(0, 2**16, (24, 40)).astype(np.int32)
    pixels = read(tmp_path, Image.fromarray(values), "a.tif")
    np.testing.assert_array_equal(pixels[..., 1], values // 256)
    fractions = RNG.random((24, 40), np.float32)
    pixels = read(tmp_path, Image.fromarray(fractions), "b.tif")
    np.testing.assert_allclose(pixels[..., 2], fractions * 255, atol=0.51)
    for bad in (values * 300, fractions - 1, np.where(fractions > 0.5, np.float32(np.nan), fractions)):
        with pytest.raises(DataError, match=r"--test\.depth LOW,HIGH"):
            read(tmp_path, Image.fromarray(bad), "c.tif")


def test_damaged_orientation_is_ignored(tmp_path):
    image = Image.fromarray(RGB)
    assert read(tmp_path, image, "a.jpg", exif=b"Exif\0\0garbage", quality=95).shape == RGB.shape


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.fromarray(np.full((8, 9, 3), value, np.uint8)) for value in (10, 20, 30)]
    assert (read(tmp_path, frames[0], "a.tif", save_all=True, append_images=frames[1:]) == 10).all()


def png_header(width, height):
    """A PNG of the claimed size whose pixels are missing."""
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(data)) + b"IHDR" + data + struct.pack(">I", zlib.crc32(b"IHDR" + data))
    idat = zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(idat)) + b"IDAT" + idat + struct.pack(">I", 0)


@pytest.mark.parametrize("side", [12000, 20000, 65535])
def test_too_many_pixels_are_refused_from_the_header(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    with pytest.raises(DataError, match="Scale it down"):
        read_image(path)


def encoded(file_format):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, file_format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        b"<html><img></html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        encoded("JPEG")[:-200],
        encoded("PNG")[:60],
    ],
    ids=["empty", "text", "html", "postscript", "truncated jpeg", "truncated png"],
)
def test_what_is_no_image_is_refused_naming_the_file(tmp_path, content):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.jpg"):
        read_image(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.jpg"):
        with pytest.raises(DataError, match="not a regular file"):
            read_image(path)
