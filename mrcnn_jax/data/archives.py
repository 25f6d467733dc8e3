"""Images in zip and tar archives, read in memory: nothing is extracted to disk, so names in an archive cannot do harm.

A member is read only if its declared size is at most MAX_FILE_BYTES, and no more than that size is ever decompressed.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from mrcnn_jax.errors import DataError

MAX_FILE_BYTES = 2**30
"""Larger encoded images are refused; the largest image of data/images.py with 16-bit colours has fewer bytes."""

MAX_MEMBERS = 5 * 10**6
"""Archives with more members are refused, since a small file can list any number of them."""

_MAX_HEADER_BYTES = 2**20  # of one header of a tar archive, which tarfile reads into memory
_OPENERS: dict[str, Any] = {
    ".tar": open,
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tbz2": bz2.open,
    ".tar.xz": lzma.open,
    ".txz": lzma.open,
}
SUFFIXES = (".zip", *_OPENERS)
"""Suffixes of files that are read as archives, in lower case."""

_DAMAGES = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError)


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str
    size: int
    """Bytes of the file, as the archive declares them."""
    place: Any
    """Where the archive's own `read` finds it."""


class Archive(Protocol):
    """An open archive; several threads may read."""

    in_order: bool
    """Whether reading the members in another order than the archive's is slow: it decompresses from the beginning."""

    def members(self) -> Iterator[Member]: ...

    def read(self, member: Member) -> bytes: ...


def is_archive(path: Path) -> bool:
    """Returns whether a file's name ends as that of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def open_archive(path: Path) -> Archive:
    """Opens an archive, whose kind its suffix states. Raises DataError if it is none."""
    try:
        return _Zip(path) if path.suffix.lower() == ".zip" else _Tar(path)
    except _DAMAGES as error:
        raise _damaged(path, error) from None


def list_members(archive: Archive, path: Path) -> list[Member]:
    """Returns the regular files in an archive, in its order. Raises DataError if it is damaged or has too many."""
    found: list[Member] = []
    try:
        for member in archive.members():
            found.append(member)
            if len(found) > MAX_MEMBERS:
                raise DataError(f"{path} has more than {MAX_MEMBERS} files. Split it.")
    except _DAMAGES as error:
        raise _damaged(path, error) from None
    return found


def read_member(archive: Archive, path: Path, member: Member) -> bytes:
    """Returns the bytes of a member. Raises DataError if it is too large, encrypted or damaged."""
    where = f"{path}/{member.name}"
    if member.size > MAX_FILE_BYTES:
        raise DataError(f"{where} has {member.size} bytes; images may have {MAX_FILE_BYTES}. Scale it down.")
    try:
        data = archive.read(member)
    except RuntimeError:  # of zipfile: a password is required, or (NotImplementedError) an unknown compression
        raise DataError(f"{where} is encrypted or compressed in an unknown way. Extract the archive first.") from None
    except _DAMAGES:
        raise DataError(f"{where} is damaged: its bytes do not match the archive. Copy the archive again.") from None
    if len(data) != member.size:
        raise DataError(f"{where} is damaged: {len(data)} of {member.size} bytes. Copy the archive again.")
    return data


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{path} is no whole archive ({reason}). Expected one of {', '.join(SUFFIXES)}.")


class _Zip:
    in_order = False

    def __init__(self, path: Path) -> None:
        self._file = zipfile.ZipFile(path)

    def members(self) -> Iterator[Member]:
        for info in self._file.infolist():
            if not info.is_dir():
                yield Member(info.filename, info.file_size, info)

    def read(self, member: Member) -> bytes:
        with self._file.open(member.place) as stream:
            return stream.read(member.size)  # and not more, whatever its data expand to


class _Tar:
    """Members are read by their offset in the decompressed stream, so no list of tarfile's is in memory."""

    def __init__(self, path: Path) -> None:
        suffix = next(suffix for suffix in _OPENERS if path.name.lower().endswith(suffix))
        self.in_order = suffix != ".tar"
        self._stream: BinaryIO = _OPENERS[suffix](path, "rb")
        weakref.finalize(self, self._stream.close)
        self._lock = threading.Lock()

    def members(self) -> Iterator[Member]:
        with tarfile.open(fileobj=cast(Any, _HeaderReader(self._stream)), mode="r:") as tar:
            while (info := tar.next()) is not None:
                cast(Any, tar).members = []  # which otherwise keeps all of them
                if info.isreg() and not info.issparse():
                    yield Member(info.name, info.size, info.offset_data)

    def read(self, member: Member) -> bytes:
        with self._lock:
            self._stream.seek(member.place)
            return self._stream.read(member.size)


class _HeaderReader(io.RawIOBase):
    """The stream for tarfile's list, which reads headers only; refuses one that would fill the memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header is too large")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()
