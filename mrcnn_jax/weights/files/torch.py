"""Reader of torch's checkpoint files: a zip archive since torch 1.6, a sequence of pickles and raw bytes before."""

import zipfile
from typing import Any

from mrcnn_jax.weights.files.cursor import Cursor
from mrcnn_jax.weights.files.pickle_machine import Persistent, read_pickle
from mrcnn_jax.weights.files.reductions import STORAGE_NAMES, Global
from mrcnn_jax.weights.files.tensors import STORAGE_DTYPES, FileError, Storage, is_count, raw_itemsize, require
from mrcnn_jax.weights.files.zips import read_entry, stored_entries

LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickle of torch's magic number."""
LEGACY_PROTOCOL = 1001
MAX_HEAD = 100
"""Maximum number of opcodes in each pickle before the structure: a number and a small table."""

MAX_STRUCTURE = 64 * 2**20
"""Maximum size in bytes of the pickle that describes the tensors."""
MAX_KEY = 100
"""Maximum number of characters in the name of a storage, which is a number."""


def is_torch_zip(archive: zipfile.ZipFile) -> bool:
    """Returns whether torch wrote the archive."""
    return any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())


def read_torch_zip(archive: zipfile.ZipFile, file_size: int) -> Any:
    """Returns the object that was passed to `torch.save`, with tensors as views of the archive's entries."""
    entries = stored_entries(archive, file_size)
    roots = [name.removesuffix("data.pkl") for name in entries if name.rpartition("/")[2] == "data.pkl"]
    require(len(roots) == 1, "the archive has several data.pkl files")
    root = roots[0]
    require(entries[f"{root}data.pkl"].file_size <= MAX_STRUCTURE, "data.pkl is too large")
    if f"{root}byteorder" in entries:
        require(read_entry(archive, entries[f"{root}byteorder"]) == b"little", "the byte order is not little-endian")
    storages: dict[str, Storage] = {}

    def add(key: str, dtype: str, numel: int) -> Storage:
        name = f"{root}data/{key}"
        require(name in entries, f"storage {key} is missing")
        entry = entries[name]
        claimed = numel * raw_itemsize(dtype)
        require(entry.file_size == claimed, f"storage {key} has {entry.file_size} bytes instead of {claimed}")
        return Storage(dtype, numel, f"storage {key}", lambda: read_entry(archive, entry))

    structure = Cursor(read_entry(archive, entries[f"{root}data.pkl"]))
    value = read_pickle(structure, _persistent(storages, add))
    for storage in storages.values():  # before the archive is closed
        storage.array()
    return value


def read_torch_legacy(data: Any) -> Any:
    """Returns the object that was passed to `torch.save`; `data` is a mapped file."""
    storages: dict[str, Storage] = {}
    file = Cursor(data, len(LEGACY_START))
    version = read_pickle(file, max_opcodes=MAX_HEAD)
    require(type(version) is int and version == LEGACY_PROTOCOL, "torch's protocol version is unknown")
    system = read_pickle(file, max_opcodes=MAX_HEAD)
    require(isinstance(system, dict) and system.get("little_endian") is True, "the byte order is not little-endian")

    def add(key: str, dtype: str, numel: int) -> Storage:
        require(numel * raw_itemsize(dtype) <= len(data), f"storage {key} is larger than the file")
        return Storage(dtype, numel, f"storage {key}")

    value = read_pickle(file, _persistent(storages, add))
    keys = read_pickle(file)
    require(isinstance(keys, list) and all(isinstance(key, str) for key in keys), "the list of storages is damaged")
    require(len(set(keys)) == len(keys), "a storage is listed twice")
    for key in keys:
        require(key in storages, f"storage {key} belongs to no tensor")
        storage = storages[key]
        head = file.read_up_to(8)
        is_same = len(head) == 8 and int.from_bytes(head, "little") == storage.numel
        require(is_same, f"storage {key} does not have the declared size")
        content = file.read_up_to(storage.numel * raw_itemsize(storage.dtype))
        storage.read = lambda content=content: content
        storage.array()
    return value


def _persistent(storages: dict[str, Storage], add: Any) -> Persistent:
    """Returns the resolver of ids ("storage", type, key, device, number of elements, view of another or None)."""

    def load(identity: Any) -> Storage:
        is_storage = isinstance(identity, tuple) and len(identity) in (5, 6) and isinstance(identity[0], str)
        require(is_storage and identity[0] == "storage", "a persistent id does not describe a storage")
        kind, key, _, numel = identity[1:5]
        is_known = isinstance(kind, Global) and kind.module == "torch" and kind.name in STORAGE_NAMES
        is_key = isinstance(key, str) and len(key) <= MAX_KEY
        require(is_known and is_key and is_count(numel), "a storage is not described in torch's format")
        if len(identity) == 6 and identity[5] is not None:
            raise FileError(f"storage {key} is a view of another, which is not supported")
        dtype = STORAGE_DTYPES[kind.name]
        if key not in storages:
            storages[key] = add(key, dtype, numel)
        found = storages[key]
        require((found.dtype, found.numel) == (dtype, numel), f"storage {key} is described in two ways")
        return found

    return load
