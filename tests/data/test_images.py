"""Images: upright 8-bit RGB from any kind, and which files may be read at all."""

import io
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mrcnn_jax.config.depth_setting import parse_depth
from mrcnn_jax.data.depth import DepthError, scale_depth
from mrcnn_jax.data.images import (
    ImageError,
    decode_image,
    locate_image,
    read_header,
    turn_as_stored,
    turn_upright,
)

LEFT_RED = np.zeros((16, 24, 3), np.uint8)
LEFT_RED[:, :12] = (255, 0, 0)  # RGB


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def save(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def test_channels_are_rgb() -> None:
    np.testing.assert_array_equal(decode_image(encode(LEFT_RED)).pixels, LEFT_RED)


TO_STORED = {  # how the upright image is stored for each EXIF orientation, by hand from the standard
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[:, ::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format_is_upright(file_format: str, orientation: int) -> None:
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :16], upright[16:, 32:] = (250, 20, 20), (20, 20, 250)
    stored = np.ascontiguousarray(TO_STORED[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(Image.fromarray(stored), file_format, exif=exif)
    header = read_header(data)
    assert (header.stored_hw, header.image_hw, header.orientation) == (stored.shape[:2], (32, 64), orientation)
    pixels = decode_image(data).pixels
    assert np.abs(pixels.astype(int) - upright).mean() < 8  # lossy formats
    np.testing.assert_array_equal(turn_upright(stored, orientation), upright)
    np.testing.assert_array_equal(turn_as_stored(upright, orientation), stored)


def test_grey_alpha_and_16_bits_become_8_bit_rgb() -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    np.testing.assert_array_equal(decode_image(encode(grey)).pixels, np.repeat(grey[..., None], 3, axis=2))
    deep = decode_image(encode(grey.astype(np.uint16) * 257), "full").pixels
    assert np.abs(deep[..., 0].astype(int) - grey).max() <= 1
    alpha = np.dstack([LEFT_RED[..., ::-1], np.full((16, 24), 7, np.uint8)])
    np.testing.assert_array_equal(decode_image(cv2.imencode(".png", alpha)[1].tobytes()).pixels, LEFT_RED)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_colours_of_16_bits_keep_their_channels_and_all_of_their_range(suffix: str) -> None:
    values = LEFT_RED.astype(np.uint16) * 16  # up to 4080: 12 bits in 16
    decoded = decode_image(encode(values, suffix))
    assert np.abs(decoded.pixels.astype(int) - LEFT_RED).max() <= 1
    assert decoded.notes == ("values scaled from 0..4095 (--depth 0,4095 fixes this range)",)
    np.testing.assert_array_equal(decode_image(encode(values, suffix), "full").pixels, LEFT_RED // 16)
    with_alpha = np.dstack([values[..., ::-1], np.full((16, 24), 9, np.uint16)])
    pixels = decode_image(cv2.imencode(suffix, with_alpha)[1].tobytes()).pixels
    assert np.abs(pixels.astype(int) - LEFT_RED).max() <= 1


@pytest.mark.parametrize(
    ("values", "depth", "expected"),
    [
        ([0, 255], "auto", [0, 255]),
        ([0, 256], "auto", [0, 64]),  # 10 bits
        ([0, 4095, 2048], "auto", [0, 255, 128]),
        ([0, 2**16 - 1, 2**15], "auto", [0, 255, 128]),
        ([0, 4095], "full", [0, 15]),
        ([100, 160, 200, 300], "100,200", [0, 153, 255, 255]),
        ([0.0, 0.5, 1.0], "auto", [0, 128, 255]),
        ([0.0, 100.4, 254.0], "auto", [0, 100, 254]),
        ([0.0, 1000.0, 1023.0], "auto", [0, 249, 255]),
        ([-1.0, 0.0, 1.0], "-1,1", [0, 128, 255]),
    ],
)
def test_ranges_by_hand(values: list[float], depth: str, expected: list[int]) -> None:
    array = np.array(values, np.float32 if isinstance(values[0], float) else np.uint16)
    np.testing.assert_array_equal(scale_depth(array, depth)[0], np.array(expected, np.uint8))


@pytest.mark.parametrize(
    ("values", "depth"), [([-1.0, 1.0], "auto"), ([0.0, 2.0], "full"), ([float("nan")], "0,1"), ([0.0, 1e6], "auto")]
)
def test_values_without_a_range_are_refused(values: list[float], depth: str) -> None:
    with pytest.raises(DepthError, match=r"outside|not finite"):
        scale_depth(np.array(values, np.float32), depth)


@pytest.mark.parametrize("depth", ["", "8", "1,0", "0,nan", "a,b", "0,1,2", "Auto"])
def test_depths_are_checked(depth: str) -> None:
    with pytest.raises(ValueError, match="expected auto, full or LOW,HIGH"):
        parse_depth(depth)


def test_of_several_frames_the_first_is_read_and_that_is_said() -> None:
    frames = [Image.fromarray(np.full((8, 9, 3), value, np.uint8)) for value in (10, 200)]
    for file_format in ("GIF", "TIFF", "WEBP"):
        decoded = decode_image(save(frames[0], file_format, save_all=True, append_images=frames[1:]))
        assert decoded.pixels.max() < 20 and decoded.notes == ("several pages or frames, the first is read",)


def test_undecodable_images_are_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    jpeg, png = encode(noise, ".jpg"), encode(noise)
    for data in (b"", b"text", b"<html></html>", jpeg[:-2], jpeg[: len(jpeg) // 3], png[:-200], png[:50]):
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode_image(data)
    assert decode_image(jpeg + b"trailing bytes").pixels.shape == (64, 64, 3)


def test_only_regular_files_inside_the_folder_are_read(tmp_path: Path) -> None:
    root = tmp_path.resolve() / "images"
    (root / "below").mkdir(parents=True)
    (root / "below" / "a.png").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"s")
    (root / "leads_out").symlink_to(tmp_path / "secret")
    (root / "stays_in").symlink_to(root / "below" / "a.png")
    os.mkfifo(root / "pipe")
    assert locate_image(root, "below/a.png") == locate_image(root, "stays_in") == root / "below" / "a.png"
    for name in ("../secret", str(tmp_path / "secret"), "leads_out", "below/../../secret"):
        with pytest.raises(ImageError, match="outside the image folder"):
            locate_image(root, name)
    for name, reason in (
        ("missing.png", "missing"),
        ("pipe", "not a regular file"),
        ("below", "not a regular file"),
        ("a\0b", "cannot be opened"),
        ("x" * 300, "cannot be opened"),
        ("\ud800", "cannot be opened"),
    ):
        with pytest.raises(ImageError, match=reason):
            locate_image(root, name)
