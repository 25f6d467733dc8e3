"""Images: the frame that annotations are drawn in, 8-bit RGB from any kind, and which files may be read at all."""

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrcnn_jax.data.images import ImageError, decode_image, locate_image

LEFT_RED = np.zeros((16, 24, 3), np.uint8)
LEFT_RED[:, :12] = (255, 0, 0)  # RGB


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF block that holds nothing but an orientation."""
    tiff = b"MM\x00\x2a" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    block = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def test_channels_are_rgb() -> None:
    np.testing.assert_array_equal(decode_image(encode(LEFT_RED), None), LEFT_RED)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pixels_are_as_stored_where_that_is_the_annotated_size(orientation: int) -> None:
    data = with_orientation(encode(LEFT_RED, ".jpg"), orientation)
    image = decode_image(data, (16, 24))
    assert image[:, :8, 0].min() > 200 and image[:, 16:, 0].max() < 50


@pytest.mark.parametrize(("orientation", "red"), [(6, np.s_[:8, :]), (8, np.s_[16:, :])])
def test_rotation_is_applied_where_only_that_gives_the_annotated_size(orientation: int, red: tuple) -> None:
    data = with_orientation(encode(LEFT_RED, ".jpg"), orientation)
    image = decode_image(data, (24, 16))
    assert image.shape == (24, 16, 3) and image[red][..., 0].min() > 200


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ImageError, match="size differs"):
        decode_image(encode(LEFT_RED), (24, 16))


def test_grey_alpha_and_16_bits_become_8_bit_rgb() -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    np.testing.assert_array_equal(decode_image(encode(grey), None), np.repeat(grey[..., None], 3, axis=2))
    deep = decode_image(encode(grey.astype(np.uint16) * 257), None)
    assert np.abs(deep[..., 0].astype(int) - grey).max() <= 1
    alpha = np.dstack([LEFT_RED[..., ::-1], np.full((16, 24), 7, np.uint8)])
    np.testing.assert_array_equal(decode_image(cv2.imencode(".png", alpha)[1].tobytes(), None), LEFT_RED)


def test_undecodable_images_are_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    jpeg, png = encode(noise, ".jpg"), encode(noise)
    for data in (b"", b"text", b"<html></html>", jpeg[:-2], jpeg[: len(jpeg) // 3], png[:-20], png[:50]):
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode_image(data, (64, 64))
    assert decode_image(jpeg + b"trailing bytes", (64, 64)).shape == (64, 64, 3)


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
