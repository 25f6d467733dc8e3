"""Zip archives of which nothing is believed: sizes, names and compression are checked before an entry is opened."""

import itertools
import zipfile
import zlib

from mrcnn_jax.weights.files.tensors import FileError, require

MAX_RATIO = 100
"""Weights hardly compress; an archive that unpacks to more than this many times its size is a bomb."""


def checked_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries by name; FileError for duplicate names, encryption, and more content than is plausible."""
    infos = archive.infolist()
    entries = {info.filename: info for info in infos}
    require(len(entries) == len(infos), "the archive has two entries of one name")
    require(not any(info.flag_bits & 1 for info in infos), "the archive is encrypted")
    size = sum(info.file_size for info in infos)
    packed = sum(info.compress_size for info in infos)
    require(size <= MAX_RATIO * packed, f"the archive unpacks to {size} bytes")
    ends = sorted((info.header_offset, info.compress_size) for info in infos)
    overlap = any(first + length > after for (first, length), (after, _) in itertools.pairwise(ends))
    require(not overlap, "entries of the archive overlap")
    return entries


def stored_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries by name; FileError if one is compressed, which torch never does."""
    entries = checked_entries(archive)
    is_stored = all(
        info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size for info in entries.values()
    )
    require(is_stored, "entries of the archive are compressed")
    return entries


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The content of an entry, its checksum compared."""
    try:
        return archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise FileError(f"{entry.filename}: {error}") from error
