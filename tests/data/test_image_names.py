"""Names of images from other machines: the one file that fits is found, nothing outside the folder, and no guess."""

import os
import unicodedata
from pathlib import Path

import pytest

from mrcnn_jax.data.image_names import ImageFolder
from mrcnn_jax.data.images import ImageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.png").write_bytes(b"s")
    folder = tmp_path / "images"
    for name in (
        "1.png",
        "a/2.png",
        "b/2.png",
        "a/c/3.PNG",
        "café dé.png",
        "12345678-upload.jpg",
        "notes.txt",
        "x.y.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    return folder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("1.png", "1.png"),
        ("a/2.png", "a/2.png"),
        ("images\\1.png", "1.png"),
        ("C:\\data\\set\\1.png", "1.png"),
        ("/home/someone/images/1.png", "1.png"),
        ("./1.png", "1.png"),
        ("..\\..\\media\\upload\\4\\1.png", "1.png"),
        ("https://example.org/data/upload/1/1.png", "1.png"),
        ("https://example.org/view/1.png?token=abc", "1.png"),
        ("http://localhost:8080/data/local-files/?d=set/a/2.png", "a/2.png"),
        ("s3://bucket/set/b/2.png", "b/2.png"),
        ("old/b/2.png", "b/2.png"),
        ("b\\2.png", "b/2.png"),
        ("A/C/3.png", "a/c/3.PNG"),
        ("3.png", "a/c/3.PNG"),
        (unicodedata.normalize("NFD", "café dé.png"), "café dé.png"),
        ("caf%C3%A9%20d%C3%A9.png", "café dé.png"),
        ("upload.jpg", "12345678-upload.jpg"),
        ("abcdef01-1.png", "1.png"),
        ("1.jpg", "1.png"),
        ("x.y.jpg", "x.y.png"),
    ],
)
def test_the_only_file_that_fits_is_found(root: Path, name: str, found: str) -> None:
    path, is_renamed = ImageFolder(root).locate(name)
    assert path == (root / found).resolve() and is_renamed == (not (root / name).is_file())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("2.png", "several images fit the file name"),
        ("c/2.png", "several images fit the file name"),
        ("none.png", "image is missing"),
        ("notes.txt/none", "image is missing"),
        ("../secret.png", "outside the image folder"),
        ("..%2Fsecret.png", "image is missing"),
        ("link.png", "outside the image folder"),
        ("some/link.png", "outside the image folder"),
        ("a", "not a regular file"),
        ("", "not a regular file"),
        ("\0", "cannot be opened"),
        ("y.png", "image is missing"),
    ],
)
def test_other_names_are_refused(root: Path, name: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        ImageFolder(root).locate(name)
