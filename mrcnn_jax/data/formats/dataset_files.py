"""The files of a data set in a folder or in an archive, which is read in memory and never extracted."""

import json
import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mrcnn_jax.data import archives
from mrcnn_jax.data.image_names import ImageFile, ImageFolder
from mrcnn_jax.data.images import SUFFIXES, ImageError, locate_image
from mrcnn_jax.errors import DataError

ReadBytes = Callable[[], bytes]
"""Returns the bytes of an image, or raises FileFault."""

_MAX_SAMPLE = 20  # files of a kind that are looked at to recognise a format


class FileFault(Exception):
    """A file that cannot be read. What it describes is left out and counted by `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.name = ""  # of the file, where it is known


class DatasetFiles:
    """The regular files of a folder or archive by their names relative to it, with / between folders.

    Hidden files and macOS's copies are not listed, nor are members of an archive whose names lead outside it.
    """

    def __init__(self, path: Path) -> None:
        """Lists the files. Raises DataError if there is no such folder or archive, or it contains no file."""
        self.path = path
        self.notes: list[str] = []
        self._read: Callable[[str], bytes]
        if path.is_dir():
            names = self._list_folder()
        elif path.is_file() and archives.is_archive(path):
            names = self._list_archive()
        else:
            what = "is no folder and no archive" if path.exists() else "does not exist"
            raise DataError(f"{path} {what}. Name a folder, or a zip file as it was downloaded.")
        self.names: tuple[str, ...] = tuple(sorted(name for name in names if not _is_hidden(name)))
        if not self.names:
            raise DataError(f"{path} contains no file.")
        self._names = frozenset(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def _list_folder(self) -> list[str]:
        root = Path(os.path.realpath(self.path))

        def read(name: str) -> bytes:
            try:
                found = locate_image(root, name)
                if found.stat().st_size > archives.MAX_FILE_BYTES:
                    raise FileFault("file has more than a gigabyte")
                return found.read_bytes()
            except (OSError, ImageError):
                raise FileFault("file cannot be opened") from None

        self._read = read
        found = []
        for folder, folders, names in os.walk(root):
            folders.sort()
            relative = os.path.relpath(folder, root).replace(os.sep, "/")
            found += [name if relative == "." else f"{relative}/{name}" for name in names]
        return found

    def _list_archive(self) -> list[str]:
        archive = archives.open_archive(self.path)
        if archive.in_order:
            raise DataError(f"{self.path} can only be read from its beginning. Extract it, and name the folder.")
        members: dict[str, archives.Member] = {}
        refused = []
        for member in archives.list_members(archive, self.path):
            name = posixpath.normpath(member.name.replace("\\", "/"))
            if name.startswith(("/", "../")) or name in members:
                refused.append(member.name)
            else:
                members[name] = member
        if refused:
            self.notes.append(
                f"{len(refused)} members of the archive lead outside it or are there twice, and are left out "
                f"({refused[0][:200]!r})."
            )

        def read(name: str) -> bytes:
            try:
                return archives.read_member(archive, self.path, members[name])
            except DataError:
                raise FileFault("file cannot be read from the archive") from None

        self._read = read
        return list(members)

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file. Raises FileFault."""
        try:
            return self._read(name)
        except FileFault as fault:
            fault.name = name
            raise

    def read_json(self, name: str) -> Any:
        """Returns the value of a JSON file in UTF-8, UTF-16 or Windows-1252. Raises FileFault."""
        data = self.read(name)
        try:
            return json.loads(data)
        except UnicodeDecodeError:
            data = data.decode("cp1252", "replace").encode()
        except (ValueError, RecursionError):
            raise FileFault("file is not valid JSON") from None
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise FileFault("file is not valid JSON") from None

    def read_text(self, name: str) -> str:
        """Returns a text file in UTF-8 or Windows-1252. Raises FileFault."""
        data = self.read(name)
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return data.decode("cp1252", "replace")

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Names of the files with the suffix of an image."""
        return tuple(name for name in self.names if suffix_of(name) in SUFFIXES)

    @cached_property
    def images_by_stem(self) -> Mapping[str, tuple[str, ...]]:
        """The images by their names without folder and suffix."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.images:
            found[stem_of(name)].append(name)
        return {stem: tuple(names) for stem, names in found.items()}

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Returns the files with one of these suffixes, in lower case with a dot."""
        return [name for name in self.names if suffix_of(name) in suffixes]

    def sample(self, *suffixes: str) -> list[str]:
        """Returns a few files with one of these suffixes, from all folders."""
        found = self.with_suffix(*suffixes)
        return found[:: max(1, len(found) // _MAX_SAMPLE)]

    @cached_property
    def _folder(self) -> "MemberFolder":
        return MemberFolder(self)

    def find_image(self, folder: str, file_name: str) -> str:
        """Returns the image that a file in `folder` calls `file_name`: from there, or the one that fits best.

        Returns the name as it is if there is none, so that preparation counts it as missing.
        """
        plain = file_name.strip().replace("\\", "/")
        for name in (join(folder, plain), plain):
            if name in self:
                return name
        try:
            found, _ = self._folder.locate(file_name)
        except ImageError:
            return plain
        assert isinstance(found, ImageMember)
        return found.full_name


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def suffix_of(name: str) -> str:
    """Returns the suffix in lower case, with its dot."""
    return posixpath.splitext(name)[1].lower()


def stem_of(name: str) -> str:
    """Returns the name without folder and suffix."""
    return posixpath.splitext(posixpath.basename(name))[0]


def join(folder: str, name: str) -> str:
    """Returns the name of a file that is given relative to a folder, with `..` resolved."""
    return posixpath.normpath(posixpath.join(folder, name))


@dataclass(frozen=True)
class ImageMember:
    """An image in a data set, which is read like a Path."""

    full_name: str
    read: Callable[[str], bytes]

    @property
    def name(self) -> str:
        return posixpath.basename(self.full_name)

    def read_bytes(self) -> bytes:
        """Returns the bytes of the file. Raises OSError if they cannot be read."""
        try:
            return self.read(self.full_name)
        except FileFault as fault:
            raise OSError(fault.reason) from None


class MemberFolder(ImageFolder):
    """A folder of a data set in which images are found by the names that annotations give them."""

    def __init__(self, files: DatasetFiles, base: str = "", embedded: Mapping[str, ReadBytes] | None = None) -> None:
        """Names are relative to the folder `base`; `embedded` are images that exist in annotation files alone."""
        self._dataset = files
        self._base = base
        self._embedded = dict(embedded or {})

    def name_of(self, image: ImageFile) -> str:
        """Returns the name of a located image relative to `base`."""
        assert isinstance(image, ImageMember)
        return posixpath.relpath(image.full_name, self._base or ".")

    def _open(self, file_name: str) -> ImageFile:
        name = join(self._base, file_name)
        if name in self._embedded:
            return ImageMember(name, lambda name: self._embedded[name]())
        if name not in self._dataset:
            raise ImageError("image is missing")
        return ImageMember(name, self._dataset.read)

    @cached_property
    def _files(self) -> list[str]:
        prefix = f"{self._base}/" if self._base else ""
        return [name.removeprefix(prefix) for name in self._dataset.images if name.startswith(prefix)]
