"""The images that a command names: files, folders, patterns, lists, archives and paths on stdin.

Only names are held in memory. The order is that of the inputs, and sorted within a folder, so the same inputs give each
image the same number and name in every process.
"""

import glob
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mrcnn_jax.data.archives import Archive, Member, is_archive, list_members, open_archive, read_member
from mrcnn_jax.data.images import SUFFIXES
from mrcnn_jax.errors import DataError

MAX_NAME_BYTES = 200
"""Longer names are shortened in paths of pictures, so that a number and a suffix fit into a file name."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """An image to predict."""

    path: Path
    """Path of the file, or of the archive that contains it."""
    name: str
    """Name with / between folders, relative and without `..`, which no other image of the same run has."""
    archive: Archive | None = None
    member: Member | None = None

    @property
    def label(self) -> str:
        """Path for messages."""
        return str(self.path) if self.member is None else f"{self.path}/{self.member.name}"

    @property
    def in_order(self) -> bool:
        """Whether files should be read one after the other in the order of the run."""
        return self.archive is not None and self.archive.in_order

    def read_bytes(self) -> bytes:
        """Returns the encoded image. Raises DataError if it is missing, no regular file or cannot be opened."""
        if self.archive is not None and self.member is not None:
            return read_member(self.archive, self.path, self.member)
        if not self.path.is_file():
            raise DataError(f"{self.path} is missing or not a regular file.")
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.path} cannot be opened: {error.strerror}.") from None

    def stored_size(self) -> int:
        """Returns the number of bytes of the encoded image, or -1 if it cannot be opened."""
        if self.member is not None:
            return self.member.size
        try:
            return self.path.stat().st_size
        except OSError:
            return -1


@dataclass
class FoundImages:
    """The images of the inputs, and what else was found there."""

    files: list[InputFile]
    left_out: dict[str, int]
    """Number of files that are not read, by suffix, and of repetitions, the most frequent first."""


class _Found(NamedTuple):
    key: str  # the same for two ways to name one image
    path: Path
    short: str  # relative to the input
    full: str  # with the input as it was typed
    archive: Archive | None = None
    member: Member | None = None


def find_images(
    inputs: Sequence[str | Path], output: Path, read_stdin: Callable[[], bytes] | None = None
) -> FoundImages:
    """Returns the images that the inputs name.

    - a file, with any suffix;
    - a folder: the image files in and below it, sorted, without hidden files and those under `output`;
    - a pattern such as `scans/**/*.png`, if no file has this name: the image files and folders that it matches, sorted;
    - an archive (.zip, .tar, .tar.gz, ...): its image files without hidden ones, in its order;
    - `@list.txt`: a text file that names one of the above on each line, relative to the working directory;
    - `-`: such a list on stdin, with newlines or NULs between the paths.

    An image's name is its path relative to the folder, or the file's own name; in an archive, the archive's name comes
    first. If two images would have the same name, all names start with the inputs as they are typed.

    Raises DataError if an input does not exist, an archive is damaged or there is no image. A missing file of a list is
    returned like others, and reported when it is read.
    """
    left_out: Counter[str] = Counter()
    found: dict[str, _Found] = {}
    for text in map(str, inputs):
        if text == "-":
            lines, origin = (read_stdin or sys.stdin.buffer.read)(), "stdin"
        elif text.startswith("@"):
            lines, origin = _read_list(Path(text[1:])), text[1:]
        else:
            lines, origin = os.fsencode(text), ""
        for line in _split_list(lines) if origin else [text]:
            for each in _expand(line, output, left_out, origin):
                left_out["repeated"] += each.key in found
                found.setdefault(each.key, each)
    if not found:
        raise DataError(f"No images in {', '.join(map(str, inputs))}. Supported: {', '.join(sorted(SUFFIXES))}.")
    names = _unique_names(list(found.values()))
    files = [
        InputFile(each.path, name, each.archive, each.member) for each, name in zip(found.values(), names, strict=True)
    ]
    return FoundImages(files, {reason: count for reason, count in left_out.most_common() if count})


def picture_names(files: Iterable[InputFile]) -> Iterator[str]:
    """Yields a path without suffix for each file's picture: its name without suffix, numbered if two clash.

    Names that differ only in case clash, since some disks do not distinguish them.
    """
    taken: set[str] = set()
    for file in files:
        stem, number = "/".join(map(_shortened, PurePosixPath(file.name).with_suffix("").parts)), 1
        name = stem
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        yield name


def _expand(text: str, output: Path, left_out: Counter[str], origin: str) -> Iterator[_Found]:
    path = Path(text)
    if path.is_dir():
        yield from _search_folder(path, output, left_out)
    elif is_archive(path) and path.is_file():
        yield from _search_archive(path, left_out)
    elif path.exists() or (origin and not glob.has_magic(text)):
        yield _Found(os.path.abspath(path), path, path.name, path.as_posix())
    elif glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))
        if not matches and not origin:
            raise DataError(f"Input {text}: no file matches this pattern.")
        for match in map(Path, matches):
            if match.is_dir() and "**" in text:
                continue  # the pattern itself goes into folders
            if match.is_dir() or is_archive(match) or match.suffix.lower() in SUFFIXES:
                yield from _expand(str(match), output, left_out, origin)
            else:
                left_out[match.suffix.lower() or "no suffix"] += 1
    else:
        raise DataError(f"Input {path} does not exist.")


def _search_folder(folder: Path, output: Path, left_out: Counter[str]) -> Iterator[_Found]:
    own = output.resolve()
    below = own.is_relative_to(folder.resolve())
    for path in sorted(path for path in folder.rglob("[!.]*") if path.is_file()):
        if below and path.resolve().is_relative_to(own):
            continue
        if path.suffix.lower() in SUFFIXES:
            yield _Found(os.path.abspath(path), path, path.relative_to(folder).as_posix(), path.as_posix())
        else:
            left_out[path.suffix.lower() or "no suffix"] += 1


def _search_archive(path: Path, left_out: Counter[str]) -> Iterator[_Found]:
    archive = open_archive(path)
    for number, member in enumerate(list_members(archive, path)):
        inner = PurePosixPath(member.name)
        if inner.name.startswith("."):
            continue
        if inner.suffix.lower() in SUFFIXES:
            names = f"{path.name}/{member.name}", f"{path.as_posix()}/{member.name}"
            yield _Found(f"{os.path.abspath(path)}\0{number}", path, *names, archive, member)
        else:
            left_out[inner.suffix.lower() or "no suffix"] += 1


def _read_list(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"The list {path} cannot be read: {error.strerror}.") from None


def _split_list(lines: bytes) -> list[str]:
    """Returns the paths between NULs, if there are any, or between newlines."""
    parts = lines.split(b"\0") if b"\0" in lines else lines.removeprefix(b"\xef\xbb\xbf").splitlines()
    return [os.fsdecode(part) for part in parts if part.strip()]


def _unique_names(found: Sequence[_Found]) -> list[str]:
    names = [_relative(each.short) for each in found]
    if len(set(names)) == len(names):
        return names
    taken: dict[str, None] = {}
    for each in found:  # in an archive, two members may have the same name
        name, number = _relative(each.full), 1
        path = PurePosixPath(name)
        while name in taken:
            number += 1
            name = str(path.with_name(f"{path.stem}_{number}{path.suffix}"))
        taken[name] = None
    return list(taken)


def _relative(name: str) -> str:
    """Returns a name that stays inside any folder to which it is appended."""
    parts = [part for part in PurePosixPath(name.replace("\0", "_")).parts if part not in ("/", "//", "..")]
    return "/".join(parts) or "unnamed"


def _shortened(part: str) -> str:
    encoded = os.fsencode(part)
    if len(encoded) <= MAX_NAME_BYTES:
        return part
    return f"{part[: MAX_NAME_BYTES // 8]}~{hashlib.sha256(encoded).hexdigest()[:16]}"
