"""Finding the files of an export's images whose names are those of another machine.

Exports name images with backslashes, with absolute paths, as URLs, percent-encoded, with decomposed letters, with a
prefix or without one, in other case. A file is taken only if it is the only one in the image folder that fits.
"""

import os
import re
import unicodedata
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from mrcnn_jax.data.images import SUFFIXES, ImageError, locate_image

_OF_ORIGINALS = frozenset((".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".psd", ".dcm", ".npy"))
"""Suffixes of files that are not read, from which images in the folder may have been converted."""
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")  # eight digits that some servers put before the names of uploads


class ImageFile(Protocol):
    """A file of an image: a Path, or a member of an archive."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes: ...


class ImageFolder:
    """A folder of images in which files are found by the names that an annotation file gives them."""

    def __init__(self, root: Path) -> None:
        """Takes the folder, whose files are listed when the first name does not fit."""
        self.root = Path(os.path.realpath(root))

    def locate(self, file_name: str) -> tuple[ImageFile, bool]:
        """Returns the file of an image and whether its name had to be changed to find it. Raises ImageError."""
        try:
            return self._open(file_name), False
        except ImageError as error:
            if error.reason == "image is not a regular file":
                raise
            parts = _parts_of(file_name)
            found = self._find(parts) if parts else []
            if len(found) > 1:
                raise ImageError("several images fit the file name") from None
            if not found:
                raise
        return self._open(found[0]), True

    def name_of(self, image: ImageFile) -> str:
        """Returns the path of a located image relative to the folder, with / between folders."""
        assert isinstance(image, Path)
        return image.relative_to(self.root).as_posix()

    def _open(self, file_name: str) -> ImageFile:
        """Returns the file of exactly this name. Raises ImageError."""
        return locate_image(self.root, file_name)

    def _find(self, parts: tuple[str, ...]) -> list[str]:
        """Returns the files that fit these parts of a path best: the most parts from the end, then the closest name."""
        for normalise in (_normalise, _without_prefix, _without_suffix):
            wanted = [normalise(part) for part in parts[-1:]]
            candidates = self._files_by_name(normalise)[wanted[0]]
            best = 0
            fitting: list[str] = []
            for candidate in candidates:
                shared = _count_shared(parts, tuple(candidate.split("/")))
                if shared > best or not fitting:
                    best, fitting = shared, [candidate]
                elif shared == best:
                    fitting.append(candidate)
            if fitting:
                return fitting
        return []

    @cached_property
    def _files(self) -> list[str]:
        """All image files in and below the folder, relative to it, with / between folders."""
        found = []
        for folder, _, names in os.walk(self.root):
            relative = os.path.relpath(folder, self.root).replace(os.sep, "/")
            prefix = "" if relative == "." else f"{relative}/"
            found += [prefix + name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]
        return sorted(found)

    @cached_property
    def _indices(self) -> dict[object, dict[str, list[str]]]:
        return {}

    def _files_by_name(self, normalise: object) -> dict[str, list[str]]:
        if normalise not in self._indices:
            index: dict[str, list[str]] = defaultdict(list)
            for file in self._files:
                index[normalise(file.rsplit("/", 1)[-1])].append(file)  # type: ignore[operator]
            self._indices[normalise] = index
        return self._indices[normalise]


def _parts_of(file_name: str) -> tuple[str, ...]:
    """Returns the folders and the name in a path of any system or in a URL, without `.` and `..`."""
    path = file_name.strip()
    if "://" in path:
        split = urlsplit(path)
        query = split.query.rpartition("d=")[2]  # a server's link to a local file: ...?d=folder/name.png
        path = query if "d=" in split.query and "." in query else split.path
    path = re.sub(r"^[A-Za-z]:", "", unquote(path).replace("\\", "/"))
    return tuple(part for part in path.split("/") if part not in ("", ".", ".."))


def _normalise(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _without_prefix(name: str) -> str:
    return _UPLOAD_PREFIX.sub("", _normalise(name))


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(_without_prefix(name))
    return stem if suffix in SUFFIXES or suffix in _OF_ORIGINALS else stem + suffix


def _count_shared(wanted: tuple[str, ...], candidate: tuple[str, ...]) -> int:
    """Returns how many folders before the name are the same, counted from the end."""
    count = 0
    for first, second in zip(reversed(wanted[:-1]), reversed(candidate[:-1]), strict=False):
        if _normalise(first) != _normalise(second):
            break
        count += 1
    return count
