"""Zip archives of which nothing is believed: sizes, names and compression are checked before an entry is opened."""

import itertools
import mmap
import struct
import zipfile
import zlib
from typing import BinaryIO

from mrcnn_jax.weights.files.tensors import FileError, plausible_size, require

MAX_ENTRIES = 20_000
"""zipfile makes an object of each entry, however small; torch writes one per storage, some thousands."""
LOCAL_HEADER = 30
"""Bytes before an entry's content, at least."""

_ENTRY = b"PK\x01\x02"
_BLOCK = 2**24
_ZIP_ERRORS = (zipfile.BadZipFile, struct.error, zlib.error, EOFError, OSError, RuntimeError, ValueError)
"""What zipfile raises on damaged archives; NotImplementedError is a RuntimeError."""


def open_archive(file: BinaryIO, data: mmap.mmap) -> zipfile.ZipFile:
    """The archive, if its table of contents is of plausible length."""
    count = sum(data[start : start + _BLOCK].count(_ENTRY) for start in range(0, len(data), _BLOCK))
    require(count <= MAX_ENTRIES, f"an archive of {count} entries is not plausible")
    try:
        return zipfile.ZipFile(file)
    except _ZIP_ERRORS as error:
        raise FileError(str(error)) from error


def checked_entries(archive: zipfile.ZipFile, max_size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name; FileError for duplicate names, encryption, and more content than is plausible."""
    infos = archive.infolist()
    entries = {info.filename: info for info in infos}
    require(len(entries) == len(infos), "the archive has two entries of one name")
    require(not any(info.flag_bits & 1 for info in infos), "the archive is encrypted")
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    require(all(info.compress_type in known for info in infos), "the archive's compression is not supported")
    size = sum(info.file_size for info in infos)
    require(size <= max_size, f"the archive unpacks to {size} bytes")
    ends = sorted((info.header_offset, LOCAL_HEADER + info.compress_size) for info in infos)
    overlap = any(first + length > after for (first, length), (after, _) in itertools.pairwise(ends))
    require(not overlap, "entries of the archive overlap")
    return entries


def stored_entries(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name; FileError if one is compressed, which torch never does."""
    entries = checked_entries(archive, plausible_size(file_size))
    is_stored = all(
        info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size for info in entries.values()
    )
    require(is_stored, "entries of the archive are compressed")
    return entries


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The content of an entry, its checksum compared."""
    try:
        with archive.open(entry) as file:
            return file.read(entry.file_size)  # no more: without a size, zipfile unpacks all before it cuts
    except _ZIP_ERRORS as error:
        raise FileError(f"{entry.filename}: {error}") from error
