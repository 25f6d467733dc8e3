"""Untrusted zip archives: sizes, names and compression are checked before an entry is opened."""

import itertools
import mmap
import struct
import zipfile
import zlib
from typing import BinaryIO

from mrcnn_jax.weights.files.tensors import FileError, plausible_size, require

MAX_ENTRIES = 20_000
"""zipfile creates an object for each entry, however small. torch writes one per storage, a few thousand."""
LOCAL_HEADER = 30
"""Minimum number of bytes before an entry's content."""

_ENTRY = b"PK\x01\x02"
_BLOCK = 2**24
_ZIP_ERRORS = (zipfile.BadZipFile, struct.error, zlib.error, EOFError, OSError, RuntimeError, ValueError)
"""Exceptions that zipfile raises for damaged archives; NotImplementedError is a RuntimeError."""


def open_archive(file: BinaryIO, data: mmap.mmap) -> zipfile.ZipFile:
    """Opens the archive. Raises FileError if it is damaged or has implausibly many entries."""
    count = sum(data[start : start + _BLOCK].count(_ENTRY) for start in range(0, len(data), _BLOCK))
    require(count <= MAX_ENTRIES, f"an archive of {count} entries is not plausible")
    try:
        return zipfile.ZipFile(file)
    except _ZIP_ERRORS as error:
        raise FileError(str(error)) from error


def checked_entries(archive: zipfile.ZipFile, max_size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the entries by name. Raises FileError for duplicates, overlaps, encryption and implausible sizes."""
    infos = archive.infolist()
    entries = {info.filename: info for info in infos}
    require(len(entries) == len(infos), "the archive has two entries with the same name")
    require(not any(info.flag_bits & 1 for info in infos), "the archive is encrypted")
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    require(all(info.compress_type in known for info in infos), "the archive's compression is not supported")
    size = sum(info.file_size for info in infos)
    require(size <= max_size, f"the archive unpacks to {size} bytes, which is not plausible")
    ends = sorted((info.header_offset, LOCAL_HEADER + info.compress_size) for info in infos)
    overlap = any(first + length > after for (first, length), (after, _) in itertools.pairwise(ends))
    require(not overlap, "entries of the archive overlap")
    return entries


def stored_entries(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the entries by name. Raises FileError if one is compressed, since torch never compresses."""
    entries = checked_entries(archive, plausible_size(file_size))
    is_stored = all(
        info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size for info in entries.values()
    )
    require(is_stored, "entries of the archive are compressed")
    return entries


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Returns the content of an entry and verifies its checksum."""
    try:
        with archive.open(entry) as file:
            return file.read(entry.file_size)  # without a size, zipfile unpacks everything before truncating
    except _ZIP_ERRORS as error:
        raise FileError(f"{entry.filename}: {error}") from error
