"""Files that a reader finds whole or not at all, JSON in them, and checksums of what is stored as JSON."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mrcnn_jax.errors import StorageError


def digest_json(content: Any) -> str:
    """Returns the SHA-256 of `content` as JSON with sorted keys, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Writes `content` beside `path` and renames it, so that a reader finds the old file or the new one.

    The folder is created. Links, such as /dev/stdout, and devices are written to directly. Raises OSError and leaves
    nothing behind.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(content)
        return
    unfinished = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Replaces the file by `content` as JSON. Raises StorageError if it cannot be written."""
    try:
        replace_file(path, (json.dumps(content, indent=indent) + "\n").encode())
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror}. Free space or choose another folder."
        ) from error
